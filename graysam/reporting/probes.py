"""Results of `graysam probe`: DSC over boxes that are not tight, predicted against real IoU, DSC over object size."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from graysam.metrics.aggregation import macro_average
from graysam.reporting.accuracy import in_papers_order
from graysam.reporting.schemas import parsing
from graysam.reporting.tables import Table, percent

IOU_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
AREA_EDGES = (0.0, 0.001, 0.01, 0.1, 1.0)  # shares of the image
NUMBERS = ["area_share", "predicted_iou", "iou", "dsc"]


@dataclass(frozen=True, eq=False)
class Probe:
    """Answers of one model, one row an object.

    Attributes:
        name: of the model, with its precision.
        objects: columns `modality` and NUMBERS.
        changed: DSC by change of the box and amount, a share of its sides; the tight box has the amount 0.
    """

    name: str
    objects: pd.DataFrame
    changed: pd.DataFrame


def read_probe(path: Path) -> Probe:
    """Read a file that `graysam probe -o` wrote; raise ValueError for a damaged one."""
    with parsing(str(path)):
        document = json.loads(path.read_text(encoding="utf-8"))
        amounts = [(change, amount) for change, found in document["changes"].items() for amount in (0.0, *found)]
        objects, changed = [], []
        for one in document["objects"]:
            objects.append([one["modality"], *(one[key] for key in NUMBERS)])
            dsc = [value for change in document["changes"] for value in (one["dsc"], *one["changed"][change])]
            if len(dsc) != len(amounts):
                raise ValueError("an object has another number of changed boxes than `changes`")
            changed.append(dsc)
        columns = pd.MultiIndex.from_tuples(amounts, names=["change", "amount"])
        frame = pd.DataFrame(objects, columns=["modality", *NUMBERS]).astype(dict.fromkeys(NUMBERS, float))
        return Probe(
            f"{document['name']} {document['precision']}", frame, pd.DataFrame(changed, columns=columns, dtype=float)
        )


def objects_by_modality(probe: Probe) -> str:
    """Return the number of objects of each modality."""
    of = probe.objects["modality"].value_counts()
    return ", ".join(f"{m} {of[m]}" for m in in_papers_order(of.index)) or "none"


def robustness(probes: Sequence[Probe]) -> pd.DataFrame:
    """Return macro DSC by change and amount, a column a probe; NaN where it has none."""
    columns = []
    for probe in probes:
        means = macro_average(zip(probe.objects["modality"], probe.changed.to_numpy(), strict=True))
        columns.append(pd.Series(means, probe.changed.columns, name=probe.name))
    return pd.concat(columns, axis=1).sort_index()


def robustness_table(probes: Sequence[Probe]) -> Table:
    """Return macro DSC of every probe for every change and amount that any of them has."""
    found = robustness(probes)
    rows = [
        [change, f"{100 * amount:.0f} %", *map(percent, dsc)]
        for (change, amount), dsc in zip(found.index, found.to_numpy(), strict=True)
    ]
    title = "DSC (%) over boxes changed by a share of their sides: mean over objects, then modalities"
    return Table(title, ["box", "by", *found.columns], rows, labels=2)


def calibration_table(probes: Sequence[Probe]) -> Table:
    """Return predicted and real IoU by bins of the predicted one, and their mean distance weighted by objects."""
    names = [f"{low:.1f} to {high:.1f}" for low, high in itertools.pairwise(IOU_EDGES)]
    rows = [*([name] for name in names), ["all"]]
    for probe in probes:
        objects = probe.objects.assign(predicted_iou=probe.objects["predicted_iou"].clip(0, 1))
        bins = _binned(objects, "predicted_iou", IOU_EDGES)
        gaps = bins["n"] * (bins["predicted_iou"] - bins["iou"]).abs()
        for row, (n, predicted, iou) in zip(rows, bins[["n", "predicted_iou", "iou"]].to_numpy(), strict=False):
            row += [f"{n:.0f}", percent(predicted), percent(iou)]
        rows[-1] += [str(len(objects)), "error", percent(gaps.sum() / len(objects) if len(objects) else np.nan)]
    columns = [text for probe in probes for text in (f"{probe.name}: objects", "predicted", "real")]
    return Table("Predicted and real IoU (%)", ["predicted IoU", *columns], rows)


def size_table(probes: Sequence[Probe]) -> Table:
    """Return DSC by the share of the image that an object takes."""
    rows = [[f"{100 * low:g} to {100 * high:g} %"] for low, high in itertools.pairwise(AREA_EDGES)]
    for probe in probes:
        bins = _binned(probe.objects, "area_share", AREA_EDGES)
        for row, (n, dsc) in zip(rows, bins[["n", "dsc"]].to_numpy(), strict=True):
            row += [f"{n:.0f}", percent(dsc)]
    columns = [text for probe in probes for text in (f"{probe.name}: objects", "DSC")]
    return Table("DSC (%) over the share of the image that an object takes", ["share", *columns], rows)


def _binned(objects: pd.DataFrame, by: str, edges: Sequence[float]) -> pd.DataFrame:
    """Return number `n` of objects and means of NUMBERS by bin of a column with values up to 1."""
    groups = objects[NUMBERS].groupby(
        pd.cut(objects[by].clip(upper=np.nextafter(1, 0)), edges, right=False), observed=False
    )
    return groups.mean().assign(n=groups.size())
