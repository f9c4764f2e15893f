"""Comparisons in pairs: variants of a sweep, and quantized kinds, on the very same validation objects."""

import re
from collections.abc import Mapping, Sequence

from graysam.reporting.accuracy import Estimate, estimate
from graysam.reporting.runs import Kind, Run
from graysam.reporting.tables import PLAIN, Table, variants

_SLICE = re.compile(r"_z\d+$")
Objects = Mapping[tuple[str, int], tuple[str, float, float]]


def subject_of(key: str) -> str:
    """Return the patient or image of a slice's key in its shard: what stands before `_z<number>`."""
    return _SLICE.sub("", key)


def mean_objects(kinds: Sequence[Kind]) -> Objects:
    """Return the means over runs (seeds) of the objects that all of them scored."""
    if not kinds:
        return {}
    shared = set.intersection(*(set(kind.objects) for kind in kinds))
    return {
        key: (
            kinds[0].objects[key][0],
            sum(kind.objects[key][1] for kind in kinds) / len(kinds),
            sum(kind.objects[key][2] for kind in kinds) / len(kinds),
        )
        for key in sorted(shared)
    }


def difference(first: Objects, second: Objects, metric: int) -> Estimate:
    """Return second minus first, macro average over modalities, with its 95 % bootstrap interval over subjects.

    first, second: of `mean_objects`; metric: 1 for DSC, 2 for NSD. Objects of one subject are averaged first, for they
    say much the same; n counts subjects. Without shared objects n is 0.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for key in sorted(first.keys() & second.keys()):
        modality = first[key][0]
        found.setdefault(modality, {}).setdefault(subject_of(key[0]), []).append(
            float(second[key][metric]) - float(first[key][metric])
        )
    return estimate([[sum(v) / len(v) for v in subjects.values()] for subjects in found.values()])


def _by_kind(runs: Sequence[Run]) -> dict[str, Objects]:
    names = dict.fromkeys(name for run in runs for name, kind in run.kinds.items() if kind.objects)
    return {name: mean_objects([run.kinds[name] for run in runs if name in run.kinds]) for name in names}


def variants_table(runs: Sequence[Run], reference: str) -> Table | None:
    """Return what each variant gains over one of them, in each kind; None where nothing can be compared.

    reference: the variant's name, or the end of it behind a slash.
    """
    found = {name: _by_kind(group) for name, group in variants(run for run in runs if not run.problem).items()}
    matching = [name for name in found if name == reference or name.endswith(f"/{reference}")]
    if not matching or not found[matching[0]]:
        return None
    base = found[matching[0]]
    rows = []
    for name, kinds in found.items():
        for kind, objects in kinds.items():
            if name != matching[0] and kind in base:
                rows.append([name, kind, *_cells(base[kind], objects)])
    title = f"Differences from {matching[0]}, same kind (points, 95 % bootstrap interval over subjects)"
    return Table(title, ["variant", "kind", "subjects", "DSC", "NSD"], rows, labels=2) if rows else None


def kinds_differences_table(runs: Sequence[Run]) -> Table | None:
    """Return what each quantized kind costs each variant against its own plain weights; None without such runs."""
    rows = []
    for name, group in variants(run for run in runs if not run.problem).items():
        kinds = _by_kind(group)
        rows += [
            [name, kind, *_cells(kinds[PLAIN], objects)]
            for kind, objects in kinds.items()
            if PLAIN in kinds and kind != PLAIN
        ]
    title = "Differences of quantized kinds from the same weights (points, 95 % bootstrap interval over subjects)"
    return Table(title, ["variant", "kind", "subjects", "DSC", "NSD"], rows, labels=2) if rows else None


def _cells(first: Objects, second: Objects) -> list[str]:
    dsc, nsd = difference(first, second, 1), difference(first, second, 2)
    return [str(dsc.n), dsc.percent(sign=True), nsd.percent(sign=True)]
