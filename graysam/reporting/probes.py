"""What `graysam.probe` found: DSC over boxes that are not tight, predicted against real IoU, DSC over object size."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graysam.reporting.accuracy import in_papers_order
from graysam.reporting.tables import EMPTY, Table

IOU_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
AREA_EDGES = (0.0, 0.001, 0.01, 0.1, 1.0)  # shares of the image


@dataclass(frozen=True)
class Probe:
    """One model's answers: its name and kind, change -> amounts, and the objects as `graysam.probe` wrote them."""

    name: str
    kind: str
    changes: Mapping[str, Sequence[float]]
    objects: Sequence[Mapping[str, Any]]

    @property
    def title(self) -> str:
        """Return name and kind."""
        return f"{self.name} {self.kind}"


def is_probe(document: object) -> bool:
    """Say whether a JSON file's content is what `graysam.probe` writes."""
    return isinstance(document, dict) and document.keys() >= {"name", "kind", "changes", "objects"}


def read_probe(path: Path) -> Probe:
    """Read a file that `graysam.probe -o` wrote.

    Raises:
        ValueError: another file, or numbers that are none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not is_probe(document):
            raise ValueError("it is not what graysam.probe -o writes")
        changes = {str(name): [float(amount) for amount in amounts] for name, amounts in document["changes"].items()}
        objects = []
        for found in document["objects"]:
            changed = {name: [float(dsc) for dsc in found["changed"][name]] for name in changes}
            if [len(values) for values in changed.values()] != [len(amounts) for amounts in changes.values()]:
                raise ValueError(f"case {found['case']} has other numbers of changed boxes")
            numbers = {key: float(found[key]) for key in ("area_share", "predicted_iou", "iou", "dsc")}
            objects.append(
                {"case": str(found["case"]), "modality": str(found["modality"]), **numbers, "changed": changed}
            )
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None
    return Probe(str(document["name"]), str(document["kind"]), changes, objects)


def macro(objects: Sequence[Mapping[str, Any]], values: Sequence[float]) -> float:
    """Return the mean over modalities of the means over their objects' values; NaN for none."""
    by_modality: dict[str, list[float]] = {}
    for found, value in zip(objects, values, strict=True):
        by_modality.setdefault(found["modality"], []).append(value)
    return float(np.mean([np.mean(group) for group in by_modality.values()])) if by_modality else math.nan


def robustness(probe: Probe) -> dict[str, list[tuple[float, float]]]:
    """Return, by change, (amount, macro DSC) from the tight box on."""
    tight = macro(probe.objects, [found["dsc"] for found in probe.objects])
    return {
        change: [(0.0, tight)]
        + [
            (amount, macro(probe.objects, [found["changed"][change][place] for found in probe.objects]))
            for place, amount in enumerate(amounts)
        ]
        for change, amounts in probe.changes.items()
    }


def calibration(probe: Probe) -> list[tuple[int, float, float]]:
    """Return, by bin of `IOU_EDGES`, how many objects' predicted IoU fell in, and means of predicted and real IoU."""
    predicted = np.clip([found["predicted_iou"] for found in probe.objects], 0, 1)
    real = np.array([found["iou"] for found in probe.objects])
    bins = np.clip(np.digitize(predicted, IOU_EDGES) - 1, 0, len(IOU_EDGES) - 2)
    return [_means(bins == place, predicted, real) for place in range(len(IOU_EDGES) - 1)]


def calibration_error(probe: Probe) -> float:
    """Return the mean distance of predicted and real IoU over the bins, weighed by their objects; NaN without any."""
    bins = [(n, abs(predicted - real)) for n, predicted, real in calibration(probe) if n]
    return sum(n * gap for n, gap in bins) / sum(n for n, _ in bins) if bins else math.nan


def by_size(probe: Probe) -> list[tuple[int, float]]:
    """Return, by bin of `AREA_EDGES`, how many objects take that share of their image, and their mean DSC."""
    area = np.array([found["area_share"] for found in probe.objects])
    dsc = np.array([found["dsc"] for found in probe.objects])
    bins = np.clip(np.digitize(area, AREA_EDGES) - 1, 0, len(AREA_EDGES) - 2)
    return [_means(bins == place, dsc) for place in range(len(AREA_EDGES) - 1)]


def _means(chosen: Any, *values: Any) -> Any:
    n = int(np.sum(chosen))
    return (n, *(float(v[chosen].mean()) if n else math.nan for v in values))


def _percent(value: float) -> str:
    return EMPTY if math.isnan(value) else f"{100 * value:.2f}"


def objects_line(probes: Sequence[Probe]) -> str:
    """Say of what objects the tables are, by modality; probes of the same objects share a line."""
    counts: dict[str, list[str]] = {}
    for probe in probes:
        of = Counter(found["modality"] for found in probe.objects)
        counts.setdefault(", ".join(f"{m} {of[m]}" for m in in_papers_order(of)), []).append(probe.title)
    said = "; ".join(f"{', '.join(titles)}: {of or 'none'}" for of, titles in counts.items())
    return (
        f"Objects by modality - {said}. A volume's object is the slice on which it is largest; its figures are "
        "therefore not Table 4's. Calibration and sizes are over all objects alike, and so mostly over those of the "
        "modality that has most."
    )


def robustness_table(probes: Sequence[Probe]) -> Table:
    """Return macro DSC of every probe for every change and amount that any of them has."""
    found = {probe.title: robustness(probe) for probe in probes}
    asked = sorted(
        {(change, amount) for curves in found.values() for change, points in curves.items() for amount, _ in points}
    )
    rows = []
    for change, amount in asked:
        cells = [dict(curves.get(change, [])).get(amount, math.nan) for curves in found.values()]
        rows.append([change, f"{100 * amount:.0f} %", *map(_percent, cells)])
    title = "DSC (%) over boxes changed by a share of their sides: mean over objects, then modalities"
    return Table(title, ["box", "by", *found], rows, labels=2)


def calibration_table(probes: Sequence[Probe]) -> Table:
    """Return predicted and real IoU by bins of the predicted one."""
    columns = [text for probe in probes for text in (f"{probe.title}: objects", "predicted", "real")]
    rows = []
    for place, (low, high) in enumerate(itertools.pairwise(IOU_EDGES)):
        cells = [calibration(probe)[place] for probe in probes]
        rows.append([f"{low:.1f} to {high:.1f}", *(t for n, p, r in cells for t in (str(n), _percent(p), _percent(r)))])
    errors = [
        text for probe in probes for text in (str(len(probe.objects)), "error", _percent(calibration_error(probe)))
    ]
    return Table("Predicted and real IoU (%)", ["predicted IoU", *columns], [*rows, ["all", *errors]])


def size_table(probes: Sequence[Probe]) -> Table:
    """Return DSC by the share of the image that an object takes."""
    columns = [text for probe in probes for text in (f"{probe.title}: objects", "DSC")]
    rows = []
    for place, (low, high) in enumerate(itertools.pairwise(AREA_EDGES)):
        cells = [by_size(probe)[place] for probe in probes]
        rows.append([f"{100 * low:g} to {100 * high:g} %", *(t for n, d in cells for t in (str(n), _percent(d)))])
    return Table("DSC (%) over the share of the image that an object takes", ["share", *columns], rows)
