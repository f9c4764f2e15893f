"""Paired comparisons on the same validation objects: variants of a sweep, and quantization methods of one variant."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from graysam.metrics.aggregation import MACRO, Estimate, estimates
from graysam.reporting.accuracy import in_papers_order
from graysam.reporting.run_tables import PLAIN
from graysam.reporting.runs import Run, usable
from graysam.reporting.tables import EMPTY, Table

OWN = "own validation"  # the run's: all objects that it scores, in the precision of training
METRICS = ("dsc", "nsd")
MIN_SUBJECTS = 5  # the interval of fewer is too narrow to decide anything
OBJECT = ["key", "box"]
_SLICE = re.compile(r"_(z|(axial|coronal|sagittal)_)\d+$")  # as slices of volumes and of the demo are named


def subject_of(key: str) -> str:
    """Return the patient or image of a slice's key in its shard: what precedes the number of the slice.

    A patient of several modalities, or of several volumes of one, counts as several subjects.
    """
    return _SLICE.sub("", key)


@dataclass(frozen=True)
class Pair:
    """A variant under a quantization method, minus what it is compared with.

    Attributes:
        variant: name of the run.
        method: quantization method, or OWN.
        reference: the variant, or method, that is subtracted.
        seeds: number of seeds that both have, which are averaged.
        dsc: modality or `macro` -> difference; n counts subjects and is 0 without shared objects.
        nsd: likewise.
    """

    variant: str
    method: str
    reference: str
    seeds: int
    dsc: Mapping[str, Estimate]
    nsd: Mapping[str, Estimate]

    @property
    def short_name(self) -> str:
        """Return the variant's name without the sweep that it shares with the reference."""
        return self.variant.removeprefix(f"{self.reference.rpartition('/')[0]}/")


def object_scores(runs: Iterable[Run]) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the scores of all objects by variant, in natural order, and method or OWN.

    Returns:
        (variant, method) -> one row for each seed and object with the columns seed, key, box, modality, subject, dsc
        and nsd; only where a usable run stored objects.
    """
    rows: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for run in (run for group in usable(runs)[0].values() for run in group):
        for method, objects in {OWN: run.objects, **{m: one.objects for m, one in run.methods.items()}}.items():
            rows.setdefault((run.name, method), []).extend(
                (run.seed, key, box, modality, subject_of(key), dsc, nsd)
                for (key, box), (modality, dsc, nsd) in objects.items()
            )
    columns = ["seed", *OBJECT, "modality", "subject", *METRICS]
    return {key: pd.DataFrame(found, columns=columns) for key, found in rows.items() if found}


def paired_differences(
    first: pd.DataFrame, second: pd.DataFrame, over: Collection[str] = ()
) -> tuple[int, dict[str, dict[str, Estimate]]]:
    """Subtract the scores of `first` from those of `second`.

    Only seeds that both have count, and objects that all of these scored. Objects are averaged over seeds, then over
    the objects of a subject, because these are alike; the bootstrap is over subjects.

    Args:
        first: one row for each seed and object, as in `object_scores`.
        second: what is compared with it.
        over: modalities of the macro average; empty for all.

    Returns:
        The number of seeds; metric -> modality or `macro` -> difference, n counts subjects.
    """
    seeds = set(first["seed"]) & set(second["seed"])
    both = second.merge(first, on=["seed", *OBJECT, "subject"], suffixes=("_second", ""))
    for metric in METRICS:
        both[metric] = both[f"{metric}_second"] - both[metric]
    both = both[both.groupby(OBJECT)["seed"].transform("size") == len(seeds)]
    objects = both.groupby(["modality", "subject", *OBJECT], as_index=False)[[*METRICS]].mean()
    subjects = objects.groupby(["modality", "subject"], as_index=False)[[*METRICS]].mean()
    groups = {m: subjects[subjects["modality"] == m] for m in in_papers_order(set(subjects["modality"]))}
    return len(seeds), {
        metric: estimates({m: group[metric].tolist() for m, group in groups.items()}, over=over) for metric in METRICS
    }


def variant_pairs(runs: Sequence[Run], reference: str, over: Collection[str] = ()) -> list[Pair]:
    """Compare each variant with the reference, under each method that both have.

    Variants whose configs choose other validation boxes or another grid share no objects and are not compared.

    Args:
        runs: of one or several sweeps.
        reference: name of a variant that all others are compared with, or the end of names after a slash: then the
            variants of each sweep are compared with that sweep's own.
        over: modalities of the macro averages; empty for all.
    """
    scores = object_scores(runs)
    prompts: dict[str, set[tuple[Any, ...]]] = {}  # which label an object's number means, and on which grid
    for run in (run for group in usable(runs)[0].values() for run in group):
        data = run.config.get("data", {})
        prompts.setdefault(run.name, set()).add((data.get("val_boxes_per_image"), data.get("size")))
    pairs = []
    for base in dict.fromkeys(name for name, _ in scores if f"/{name}".endswith(f"/{reference}")):
        for name, method in scores:
            same_sweep = name.rpartition("/")[0] == base.rpartition("/")[0]
            comparable = (base == reference or same_sweep) and prompts[name] == prompts[base]
            if name != base and comparable and (base, method) in scores:
                seeds, found = paired_differences(scores[base, method], scores[name, method], over)
                pairs.append(Pair(name, method, base, seeds, **found))
    return pairs


def method_pairs(runs: Iterable[Run]) -> list[Pair]:
    """Compare each quantization method of a variant with the same seeds' unquantized weights."""
    scores = object_scores(runs)
    quantized = [key for key in scores if key[1] not in (PLAIN, OWN) and (key[0], PLAIN) in scores]
    pairs = []
    for name, method in quantized:
        seeds, found = paired_differences(scores[name, PLAIN], scores[name, method])
        pairs.append(Pair(name, method, PLAIN, seeds, **found))
    return pairs


def unquantized(pairs: Iterable[Pair]) -> list[Pair]:
    """Return of each comparison the pair OWN, which has most objects, or else the one of the method `none`."""
    chosen: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        if pair.method == OWN or (pair.method == PLAIN and (pair.reference, pair.variant) not in chosen):
            chosen[pair.reference, pair.variant] = pair
    return list(chosen.values())


def not_compared(runs: Iterable[Run], pairs: Iterable[Pair]) -> list[str]:
    """Return the finished variants that are in none of the pairs."""
    names = {name for pair in pairs for name in (pair.reference, pair.variant if pair.dsc[MACRO].n else "")}
    return [name for name in usable(runs)[0] if name not in names]


def pairs_table(pairs: Iterable[Pair], title: str) -> Table:
    """Return macro averages, one row a pair."""
    rows = [
        [p.variant, p.method, str(p.seeds), str(dsc.n), dsc.percent(sign=True), p.nsd[MACRO].percent(sign=True)]
        for p in pairs
        for dsc in [p.dsc[MACRO]]
    ]
    return Table(title, ["variant", "method", "seeds", "subjects", "DSC", "NSD"], rows, labels=2)


def pairs_by_modality_table(pairs: Sequence[Pair], title: str) -> Table:
    """Return the DSC of each modality with its number of subjects: one row a pair, one column a modality."""
    subjects = {m: max(pair.dsc[m].n for pair in pairs if m in pair.dsc) for pair in pairs for m in pair.dsc}
    names = in_papers_order(subjects.keys() - {MACRO})
    rows = [[p.variant, *(p.dsc[m].percent(sign=True) if m in p.dsc else EMPTY for m in names)] for p in pairs]
    return Table(title, ["variant", *(f"{m}, n = {subjects[m]}" for m in names)], rows)


def verdict(difference: Estimate) -> str:
    """Return what an interval shows; one that contains 0 shows no difference."""
    if difference.n < MIN_SUBJECTS:
        return "too few subjects to tell" if difference.n else "not compared"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "no difference shown"


def variant_conclusions(pairs: Iterable[Pair]) -> list[str]:
    """Return a sentence for each reference and metric: which variants are better, worse, or not distinguishable.

    Args:
        pairs: of `variant_pairs`; the macro averages of those that are not quantized are used.
    """
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for pair in unquantized(pairs):
        for metric, found in (("DSC", pair.dsc[MACRO]), ("NSD", pair.nsd[MACRO])):
            ordered: dict[str, list[str]] = {name: [] for name in ("better", "worse", "no difference shown")}
            group = groups.setdefault((pair.reference, metric), ordered)
            group.setdefault(verdict(found), []).append(f"`{pair.short_name}` {found.percent(sign=True)}")
    return [
        f"Against `{reference}`, {metric} in points: "
        + "; ".join(f"{name}: {', '.join(variants)}" for name, variants in group.items() if variants)
        + "."
        for (reference, metric), group in groups.items()
    ]


def method_conclusions(pairs: Iterable[Pair]) -> list[str]:
    """Return a sentence for each sweep and quantization method: how much it changes, and for how many variants.

    Args:
        pairs: of `method_pairs`.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        family = pair.variant.rpartition("/")[0] or pair.variant
        groups.setdefault(f"`{pair.method}` changes `{family}`", []).append(pair)
    lines = []
    for start, group in groups.items():
        parts = []
        for metric in METRICS:
            found: list[Estimate] = [getattr(pair, metric)[MACRO] for pair in group]
            means = [100 * one.mean for one in found if one.n]
            clear = sum(verdict(one) in ("better", "worse") for one in found)
            if means:
                changes = f"{metric.upper()} by {min(means):+.2f} to {max(means):+.2f} points"
                parts.append(f"{changes}, with an interval that excludes 0 in {clear} of {len(means)} variants")
        missing = sum(pair.dsc[MACRO].n == 0 for pair in group)
        parts += [f"{missing} variants not compared, because no seed has both"] if missing else []
        lines.append(f"{start}: {'; '.join(parts)}.")
    return lines
