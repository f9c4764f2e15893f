"""Comparisons in pairs: variants of a sweep, and quantized kinds, on the very same validation objects."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graysam.reporting.accuracy import Estimate, estimate, in_papers_order
from graysam.reporting.runs import MACRO, Objects, Run
from graysam.reporting.tables import EMPTY, PLAIN, Table, variants

_SLICE = re.compile(r"_z\d+$")
AS_TRAINED = "as trained"  # the run's own validation: every held-out object, in training's precision


def subject_of(key: str) -> str:
    """Return the patient or image of a slice's key in its shard: what stands before `_z<number>`."""
    return _SLICE.sub("", key)


def mean_objects(found: Sequence[Objects]) -> Objects:
    """Return the means over runs (seeds) of the objects that all of them scored."""
    if not found:
        return {}
    shared = set.intersection(*(set(objects) for objects in found))
    return {
        key: (
            found[0][key][0],
            sum(objects[key][1] for objects in found) / len(found),
            sum(objects[key][2] for objects in found) / len(found),
        )
        for key in sorted(shared)
    }


DSC, NSD = 1, 2  # places in an object's row


def differences(first: Objects, second: Objects, metric: int) -> dict[str, Estimate]:
    """Return second minus first of each modality, and their macro average under the key `macro`.

    first, second: of `mean_objects`; metric: `DSC` or `NSD`. Objects of one subject are averaged first, for they say
    much the same; the 95 % bootstrap interval is over subjects, and n counts them. Without shared objects the macro
    average's n is 0.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for key in sorted(first.keys() & second.keys()):
        modality = first[key][0]
        found.setdefault(modality, {}).setdefault(subject_of(key[0]), []).append(
            float(second[key][metric]) - float(first[key][metric])
        )
    groups = {m: [sum(v) / len(v) for v in found[m].values()] for m in in_papers_order(found)}
    return {**{m: estimate([group]) for m, group in groups.items()}, MACRO: estimate(list(groups.values()))}


def _by_kind(runs: Sequence[Run]) -> dict[str, Objects]:
    """Return the seeds' means of `AS_TRAINED`, where all have it, and of each kind."""
    names = dict.fromkeys(name for run in runs for name, kind in run.kinds.items() if kind.objects)
    by_kind = {name: mean_objects([run.kinds[name].objects for run in runs if name in run.kinds]) for name in names}
    own = mean_objects([run.objects for run in runs])
    return {AS_TRAINED: own, **by_kind} if own else by_kind


@dataclass(frozen=True)
class Pair:
    """A variant in a kind of numbers, against what it is compared with: modality or `macro` -> second minus first.

    family: the sweep's name, "" for a run that is none's. reference: the variant, or kind, that is subtracted.
    """

    family: str
    variant: str
    kind: str
    reference: str
    dsc: Mapping[str, Estimate]
    nsd: Mapping[str, Estimate]


def _pair(family: str, variant: str, kind: str, reference: str, first: Objects, second: Objects) -> Pair:
    return Pair(
        family, variant, kind, reference, differences(first, second, DSC), differences(first, second, NSD)
    )  # fmt: skip


def _variants_by_kind(runs: Sequence[Run]) -> Iterator[tuple[str, str, dict[str, Objects]]]:
    for name, group in variants(run for run in runs if not run.problem).items():
        yield name.rpartition("/")[0], name, _by_kind(group)


def variant_pairs(runs: Sequence[Run], reference: str) -> list[Pair]:
    """Return what each variant gains over the reference, in each kind that both have; seeds are averaged.

    reference: a variant's name, with which all others are compared, or the end of it behind a slash: then each sweep's
    variants are compared with that sweep's own.
    """
    found = list(_variants_by_kind(runs))
    pairs = []
    for family, base_name, base in found:
        if not (base_name == reference or base_name.endswith(f"/{reference}")):
            continue
        for other, name, kinds in found:
            if name != base_name and (base_name == reference or other == family):
                pairs += [
                    _pair(other, name, kind, base_name, base[kind], objects)
                    for kind, objects in kinds.items()
                    if kind in base
                ]
    return pairs


def kind_pairs(runs: Sequence[Run]) -> list[Pair]:
    """Return what each quantized kind changes in each variant against its own plain weights; seeds are averaged."""
    return [
        _pair(family, name, kind, PLAIN, kinds[PLAIN], objects)
        for family, name, kinds in _variants_by_kind(runs)
        for kind, objects in kinds.items()
        if PLAIN in kinds and kind not in (PLAIN, AS_TRAINED)
    ]


def pairs_table(pairs: Sequence[Pair], title: str) -> Table:
    """Return macro averages: a row a pair."""
    rows = [
        [
            pair.variant,
            pair.kind,
            str(pair.dsc[MACRO].n),
            pair.dsc[MACRO].percent(sign=True),
            pair.nsd[MACRO].percent(sign=True),
        ]
        for pair in pairs
    ]
    return Table(title, ["variant", "kind", "subjects", "DSC", "NSD"], rows, labels=2)


def unquantized(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs `AS_TRAINED`, which hold most objects; where a reference has none, those in plain numbers."""
    fullest = {pair.reference: PLAIN for pair in pairs} | {
        p.reference: AS_TRAINED for p in pairs if p.kind == AS_TRAINED
    }
    return [pair for pair in pairs if pair.kind == fullest[pair.reference]]


def pairs_by_modality_table(pairs: Sequence[Pair], title: str) -> Table:
    """Return the DSC of each modality: a row a pair, a column a modality."""
    modalities = in_papers_order({name for pair in pairs for name in pair.dsc} - {MACRO})
    rows = [
        [pair.variant, *(pair.dsc[m].percent(sign=True) if m in pair.dsc else EMPTY for m in modalities)]
        for pair in pairs
    ]
    return Table(title, ["variant", *modalities], rows)
