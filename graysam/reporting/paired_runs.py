"""Comparisons in pairs: variants of a sweep, and quantized kinds, on the very same validation objects."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from graysam.reporting.accuracy import Estimate, estimate, in_papers_order
from graysam.reporting.runs import MACRO, Objects, ObjectScore, Run
from graysam.reporting.tables import EMPTY, PLAIN, Table, variants

_SLICE = re.compile(r"_(z|(axial|coronal|sagittal)_)\d+$")  # as volumes' and the demo's slices are named
OWN = "own validation"  # the run's: all objects that it scores, in training's precision
SeedObjects = Mapping[int | None, Objects]  # seed -> what was scored


def subject_of(key: str) -> str:
    """Return the patient or image of a slice's key in its shard: what stands before the slice's number.

    A patient of several modalities, or of several volumes of one, is as many subjects. The demo's one brain is one.
    """
    return _SLICE.sub("", key)


def mean_objects(found: Sequence[Objects]) -> Objects:
    """Return the means over runs (seeds) of the objects that all of them scored; {} for none."""
    if not found:
        return {}
    shared = set.intersection(*(set(objects) for objects in found))
    return {
        key: ObjectScore(
            found[0][key].modality,
            sum(objects[key].dsc for objects in found) / len(found),
            sum(objects[key].nsd for objects in found) / len(found),
        )
        for key in sorted(shared)
    }


def differences(first: Objects, second: Objects, metric: str, over: Collection[str] = ()) -> dict[str, Estimate]:
    """Return second minus first of each modality, and their macro average under the key `macro`.

    first, second: of `mean_objects`; metric: `dsc` or `nsd`; over: the macro average's modalities, () for all. Objects
    of one subject are averaged first, for they say much the same; the 95 % bootstrap interval is over subjects, and n
    counts them. Without shared objects the macro average's n is 0.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for key in sorted(first.keys() & second.keys()):
        found.setdefault(first[key].modality, {}).setdefault(subject_of(key[0]), []).append(
            getattr(second[key], metric) - getattr(first[key], metric)
        )
    groups = {m: [sum(v) / len(v) for v in found[m].values()] for m in in_papers_order(found)}
    chosen = [group for m, group in groups.items() if not over or m in over]
    return {**{m: estimate([group]) for m, group in groups.items()}, MACRO: estimate(chosen)}


@dataclass(frozen=True)
class Pair:
    """A variant in a kind of numbers, against what it is compared with: modality or `macro` -> second minus first.

    family: the sweep's name, "" for a run that is none's. reference: the variant, or kind, that is subtracted. seeds:
    how many both sides have, which are averaged; where there is none, or no shared object, the macro average's n is 0.
    """

    family: str
    variant: str
    kind: str
    reference: str
    seeds: int
    dsc: Mapping[str, Estimate]
    nsd: Mapping[str, Estimate]


def _pair(
    names: tuple[str, str, str, str], first: SeedObjects, second: SeedObjects, over: Collection[str] = ()
) -> Pair:
    seeds = [seed for seed in first if seed in second]
    before, after = (mean_objects([side[seed] for seed in seeds]) for side in (first, second))
    return Pair(*names, len(seeds), *(differences(before, after, metric, over) for metric in ("dsc", "nsd")))


def _by_kind(runs: Sequence[Run]) -> dict[str, dict[int | None, Objects]]:
    """Return what `OWN` and each kind scored, by seed; of several runs of a seed the first counts."""
    found: dict[str, dict[int | None, Objects]] = {}
    for run in runs:
        for name, objects in {OWN: run.objects, **{n: kind.objects for n, kind in run.kinds.items()}}.items():
            if objects:
                found.setdefault(name, {}).setdefault(run.seed, objects)
    return found


class _Variant(NamedTuple):
    """The finished runs of a name: their sweep, what decides about prompts, and what each kind scored, by seed."""

    family: str
    name: str
    prompts: set[tuple[Any, ...]]
    kinds: dict[str, dict[int | None, Objects]]


def _finished(runs: Sequence[Run]) -> list[_Variant]:
    groups = variants(run for run in runs if not run.problem)
    return [_Variant(name.rpartition("/")[0], name, _prompts(group), _by_kind(group)) for name, group in groups.items()]


def _prompts(runs: Sequence[Run]) -> set[tuple[Any, ...]]:
    """Return what decides which label an object's number means, and on which grid it is scored."""
    data: list[Mapping[str, Any]] = [part for run in runs if isinstance(part := run.config.get("data"), Mapping)]
    return {(part.get("val_boxes_per_image"), part.get("size")) for part in data}


def variant_pairs(runs: Sequence[Run], reference: str, over: Collection[str] = ()) -> list[Pair]:
    """Return what each variant gains over the reference, in each kind that both have.

    Variants whose configs choose other validation boxes, or another grid, have no objects in common with it.

    reference: a variant's name, with which all others are compared, or the end of it behind a slash: then each sweep's
    variants are compared with that sweep's own. over: the macro averages' modalities, () for all.
    """
    found = _finished(runs)
    return [
        _pair((one.family, one.name, kind, base.name), base.kinds[kind], seeds, over)
        for base in found
        if base.name == reference or base.name.endswith(f"/{reference}")
        for one in found
        if one.name != base.name and (base.name == reference or one.family == base.family)
        if one.prompts == base.prompts
        for kind, seeds in one.kinds.items()
        if kind in base.kinds
    ]


def scored_modalities(runs: Sequence[Run]) -> set[str]:
    """Return the modalities of all objects whose scores the runs stored, in whatever kind."""
    scored = [objects for run in runs for objects in (run.objects, *(kind.objects for kind in run.kinds.values()))]
    return {one.modality for objects in scored for one in objects.values()}


def not_compared(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[str]:
    """Return the finished variants that are in none of the pairs, neither compared nor compared with."""
    names = {pair.variant for pair in pairs if pair.dsc[MACRO].n} | {pair.reference for pair in pairs}
    return [one.name for one in _finished(runs) if one.name not in names]


def kind_pairs(runs: Sequence[Run]) -> list[Pair]:
    """Return what each quantized kind changes in each variant against the same seeds' plain weights."""
    return [
        _pair((one.family, one.name, kind, PLAIN), one.kinds[PLAIN], seeds)
        for one in _finished(runs)
        for kind, seeds in one.kinds.items()
        if PLAIN in one.kinds and kind not in (PLAIN, OWN)
    ]


def unquantized(pairs: Sequence[Pair]) -> list[Pair]:
    """Return of each comparison the pair `OWN`, which holds most objects, or else the one in plain numbers."""
    trained = {(pair.reference, pair.variant) for pair in pairs if pair.kind == OWN}
    return [
        pair
        for pair in pairs
        if pair.kind == (OWN if (pair.reference, pair.variant) in trained else PLAIN)
    ]  # fmt: skip


def pairs_table(pairs: Sequence[Pair], title: str) -> Table:
    """Return macro averages: a row a pair."""
    rows = [
        [
            pair.variant,
            pair.kind,
            str(pair.seeds),
            str(pair.dsc[MACRO].n),
            pair.dsc[MACRO].percent(sign=True),
            pair.nsd[MACRO].percent(sign=True),
        ]
        for pair in pairs
    ]
    return Table(title, ["variant", "kind", "seeds", "subjects", "DSC", "NSD"], rows, labels=2)


def pairs_by_modality_table(pairs: Sequence[Pair], title: str) -> Table:
    """Return the DSC of each modality, with its number of subjects: a row a pair, a column a modality."""
    modalities = in_papers_order({name for pair in pairs for name in pair.dsc} - {MACRO})
    subjects = {m: max(pair.dsc[m].n for pair in pairs if m in pair.dsc) for m in modalities}
    rows = [
        [pair.variant, *(pair.dsc[m].percent(sign=True) if m in pair.dsc else EMPTY for m in modalities)]
        for pair in pairs
    ]
    return Table(title, ["variant", *(f"{m}, n = {n}" for m, n in subjects.items())], rows)
