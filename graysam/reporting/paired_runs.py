"""Paired comparisons on the same validation objects: variants of a sweep, and quantization methods of one variant."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from graysam.metrics.aggregation import Estimate, estimate
from graysam.reporting.accuracy import in_papers_order
from graysam.reporting.runs import PLAIN, Run
from graysam.reporting.tables import EMPTY, Table

OWN = "own validation"  # the run's: all objects that it scores, in the precision of training
METRICS = ["dsc", "nsd"]
MIN_SUBJECTS = 5  # the interval of fewer is too narrow to decide anything
OBJECT = ["modality", "key", "box"]
SLICE = r"_(?:z|(?:axial|coronal|sagittal)_)\d+$"  # end of a slice's key; a patient or an image is what precedes it
Scored = Mapping[tuple[str, str], pd.DataFrame]  # (variant, method or OWN) -> one row for each seed and object


@dataclass(frozen=True, eq=False)
class Pair:
    """A variant under a quantization method, minus what it is compared with.

    Attributes:
        method: quantization method, or OWN.
        reference: the variant, or method, that is subtracted.
        seeds: number of seeds that both have, which are averaged.
        subjects: differences of METRICS, one row a `modality` and subject.
        macro: metric -> macro average; n counts subjects and is 0 without shared objects.
    """

    variant: str
    method: str
    reference: str
    seeds: int
    subjects: pd.DataFrame
    macro: Mapping[str, Estimate]

    @property
    def short_name(self) -> str:
        """Return the variant's name without the sweep that it shares with the reference."""
        return self.variant.removeprefix(f"{self.reference.rpartition('/')[0]}/")

    def by_modality(self, metric: str) -> dict[str, Estimate]:
        """Return a metric's difference of each modality, in the paper's order."""
        scores = self.subjects.set_index("modality")[metric]
        return {m: estimate([scores.loc[[m]].tolist()]) for m in in_papers_order(set(scores.index))}


def object_scores(runs: Iterable[Run]) -> Scored:
    """Return the scores of all objects of usable runs with the columns seed, OBJECT and METRICS."""
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for run in runs:
        for method, objects in {OWN: run.objects, **{m: one.objects for m, one in run.methods.items()}}.items():
            if objects:
                found.setdefault((run.name, method), []).append(pd.DataFrame(objects).assign(seed=run.seed))
    return {key: pd.concat(frames) for key, frames in found.items()}


def compare(scores: Scored, first: tuple[str, str], second: tuple[str, str], over: Collection[str] = ()) -> Pair:
    """Subtract the scores of `first` from those of `second`, both keys of `scores`.

    Only seeds that both have count, and objects that all of these scored. Objects are averaged over seeds, then over
    the objects of a subject (patient or image), because these are alike; the bootstrap is over subjects. A patient of
    several modalities, or of several volumes of one, counts as several subjects. The macro average is over the
    modalities `over`, or all.
    """
    seeds = set(scores[first]["seed"]) & set(scores[second]["seed"])
    both = scores[second].merge(scores[first], on=["seed", *OBJECT], suffixes=("", "_first"))
    both = both[both.groupby(OBJECT)["seed"].transform("size") == len(seeds)]
    changes = both[OBJECT].assign(**{metric: both[metric] - both[f"{metric}_first"] for metric in METRICS})
    objects = changes.groupby(OBJECT, as_index=False).mean()
    objects["subject"] = objects["key"].str.replace(SLICE, "", regex=True)
    subjects = objects.groupby(["modality", "subject"], as_index=False)[METRICS].mean()
    names = [m for m in in_papers_order(set(subjects["modality"])) if not over or m in over]
    groups = [subjects[subjects["modality"] == m] for m in names]
    macro = {metric: estimate(group[metric].tolist() for group in groups) for metric in METRICS}
    return Pair(*second, first[1] if first[0] == second[0] else first[0], len(seeds), subjects, macro)


def variant_pairs(runs: Sequence[Run], scores: Scored, reference: str, over: Collection[str] = ()) -> list[Pair]:
    """Compare each variant with the reference, under each method that both have.

    Variants whose configs choose other validation boxes or another grid share no objects and are not compared.

    Args:
        runs: usable ones of one or several sweeps; scores: their `object_scores`.
        reference: name of a variant that all others are compared with, or the end of names after a slash: then the
            variants of each sweep are compared with that sweep's own.
        over: modalities of the macro averages; empty for all.
    """
    prompts: dict[str, set[tuple[Any, ...]]] = {}  # which label an object's number means, and on which grid
    for run in runs:
        data = run.config.get("data", {})
        prompts.setdefault(run.name, set()).add((data.get("val_boxes_per_image"), data.get("size")))
    pairs = []
    for base in dict.fromkeys(name for name, _ in scores if f"/{name}".endswith(f"/{reference}")):
        for name, method in scores:
            same_sweep = name.rpartition("/")[0] == base.rpartition("/")[0]
            comparable = (base == reference or same_sweep) and prompts[name] == prompts[base]
            if name != base and comparable and (base, method) in scores:
                pairs.append(compare(scores, (base, method), (name, method), over))
    return pairs


def method_pairs(scores: Scored) -> list[Pair]:
    """Compare each quantization method of a variant with the same seeds' unquantized weights."""
    quantized = [key for key in scores if key[1] not in (PLAIN, OWN) and (key[0], PLAIN) in scores]
    return [compare(scores, (name, PLAIN), (name, method)) for name, method in quantized]


def unquantized(pairs: Iterable[Pair]) -> list[Pair]:
    """Return of each comparison the pair OWN, which has most objects, or else the one of the method `none`."""
    chosen: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        if pair.method == OWN or (pair.method == PLAIN and (pair.reference, pair.variant) not in chosen):
            chosen[pair.reference, pair.variant] = pair
    return list(chosen.values())


def rank(pairs: Iterable[Pair], metric: str) -> str:
    """Return the variants' short names and differences, by what the macro average's interval shows."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
    for pair in pairs:
        macro = pair.macro[metric]
        verdict = "better" if macro.low > 0 else "worse" if macro.high < 0 else "no difference shown"
        if macro.n < MIN_SUBJECTS:
            verdict = "too few subjects to tell" if macro.n else "not compared"
        found.setdefault(verdict, []).append(f"`{pair.short_name}` {macro.percent(sign=True)}")
    return "; ".join(f"{verdict}: {', '.join(variants)}" for verdict, variants in found.items() if variants)


def pairs_table(pairs: Iterable[Pair], title: str) -> Table:
    """Return macro averages, one row a pair."""
    rows = [
        [pair.variant, pair.method, str(pair.seeds), str(pair.macro["dsc"].n)]
        + [pair.macro[metric].percent(sign=True) for metric in METRICS]
        for pair in pairs
    ]
    return Table(title, ["variant", "method", "seeds", "subjects", "DSC", "NSD"], rows, labels=2)


def pairs_by_modality_table(pairs: Sequence[Pair], title: str) -> Table:
    """Return the DSC of each modality with its number of subjects: one row a pair, one column a modality."""
    found = [pair.by_modality("dsc") for pair in pairs]
    subjects = {m: max(dsc[m].n for dsc in found if m in dsc) for dsc in found for m in dsc}
    names = in_papers_order(subjects)
    rows = [
        [pair.variant, *(dsc[m].percent(sign=True) if m in dsc else EMPTY for m in names)]
        for pair, dsc in zip(pairs, found, strict=True)
    ]
    return Table(title, ["variant", *(f"{m}, n = {subjects[m]}" for m in names)], rows)
