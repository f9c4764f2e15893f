"""Results of `graysam probe`: DSC over boxes that are not tight, predicted against real IoU, DSC over object size."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from graysam.metrics.aggregation import macro_average
from graysam.reporting.accuracy import in_papers_order
from graysam.reporting.schemas import parsing
from graysam.reporting.tables import EMPTY, Table

IOU_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
AREA_EDGES = (0.0, 0.001, 0.01, 0.1, 1.0)  # shares of the image
NUMBERS = ["area_share", "predicted_iou", "iou", "dsc"]


@dataclass(frozen=True, eq=False)
class Probe:
    """Answers of one model.

    Attributes:
        title: name and precision of the model.
        changes: change of the box -> amounts, shares of its sides.
        objects: one row an object: `modality`, NUMBERS, and the DSC of the changed boxes as lists, one column a change.
    """

    title: str
    changes: Mapping[str, Sequence[float]]
    objects: pd.DataFrame


def is_probe(document: object) -> bool:
    """Return whether the content of a JSON file is what `graysam probe` writes."""
    return isinstance(document, dict) and document.keys() >= {"name", "changes", "objects"}


def read_probe(path: Path) -> Probe:
    """Read a file that `graysam probe -o` wrote; raise ValueError for a damaged one."""
    with parsing(str(path)):
        document = json.loads(path.read_text(encoding="utf-8"))
        changes = {str(name): [float(amount) for amount in amounts] for name, amounts in document["changes"].items()}
        rows = [[one["modality"], *(one[key] for key in NUMBERS), *(one["changed"][c] for c in changes)]
                for one in document["objects"]]  # fmt: skip
        objects = pd.DataFrame(rows, columns=["modality", *NUMBERS, *changes]).astype(dict.fromkeys(NUMBERS, float))
        for change, amounts in changes.items():
            if any(len(dsc) != len(amounts) for dsc in objects[change]):
                raise ValueError(f"an object has another number of boxes {change} than {len(amounts)}")
        precision = document.get("precision", document.get("kind"))  # `kind` in earlier files
        return Probe(f"{document['name']} {precision}", changes, objects)


def robustness(probe: Probe) -> "pd.Series[float]":
    """Return macro DSC by change and amount, with the tight box at amount 0; NaN without objects."""
    amounts = [(change, amount) for change, found in probe.changes.items() for amount in (0.0, *found)]
    rows = [
        (modality, [dsc for change in probe.changes for dsc in (tight, *changed[change])])
        for modality, tight, changed in zip(
            probe.objects["modality"], probe.objects["dsc"], probe.objects.to_dict("records"), strict=True
        )
    ]
    index = pd.MultiIndex.from_tuples(amounts, names=["change", "amount"])
    return pd.Series(macro_average(rows) if rows else math.nan, index, name=probe.title)


def _binned(
    objects: pd.DataFrame, values: "pd.Series[float]", edges: Sequence[float], means: list[str]
) -> pd.DataFrame:
    """Return `n` and the means of columns by bin of values, which are clipped to the edges."""
    bins = np.clip(np.digitize(values, edges) - 1, 0, len(edges) - 2)
    groups = objects[means].groupby(bins)
    return groups.mean().assign(n=groups.size()).reindex(range(len(edges) - 1)).fillna({"n": 0}).astype({"n": int})


def calibration(probe: Probe) -> pd.DataFrame:
    """Return number `n` of objects and mean `predicted_iou` and `iou` by bin of IOU_EDGES."""
    objects = probe.objects.assign(predicted_iou=probe.objects["predicted_iou"].clip(0, 1))
    return _binned(objects, objects["predicted_iou"], IOU_EDGES, ["predicted_iou", "iou"])


def calibration_error(probe: Probe) -> float:
    """Return the mean distance of predicted and real IoU over the bins, weighted by their objects; NaN without any."""
    bins = calibration(probe)
    gaps = bins["n"] * (bins["predicted_iou"] - bins["iou"]).abs()
    return float(gaps.sum() / bins["n"].sum()) if len(probe.objects) else math.nan


def by_size(probe: Probe) -> pd.DataFrame:
    """Return number `n` of objects and mean `dsc` by bin of AREA_EDGES, the object's share of its image."""
    return _binned(probe.objects, probe.objects["area_share"], AREA_EDGES, ["dsc"])


def _percent(value: float) -> str:
    return EMPTY if math.isnan(value) else f"{100 * value:.2f}"


def objects_by_modality(probe: Probe) -> str:
    """Return the number of objects of each modality."""
    of = probe.objects["modality"].value_counts()
    return ", ".join(f"{m} {of[m]}" for m in in_papers_order(of.index)) or "none"


def robustness_table(probes: Sequence[Probe]) -> Table:
    """Return macro DSC of every probe for every change and amount that any of them has."""
    table = pd.concat([robustness(probe) for probe in probes], axis=1).sort_index().map(_percent)
    rows = [
        [change, f"{100 * amount:.0f} %", *row]
        for (change, amount), row in zip(table.index, table.to_numpy(), strict=True)
    ]
    title = "DSC (%) over boxes changed by a share of their sides: mean over objects, then modalities"
    return Table(title, ["box", "by", *table.columns], rows, labels=2)


def calibration_table(probes: Sequence[Probe]) -> Table:
    """Return predicted and real IoU by bins of the predicted one."""
    names = [f"{low:.1f} to {high:.1f}" for low, high in itertools.pairwise(IOU_EDGES)]
    rows = _bin_rows(names, [calibration(probe) for probe in probes], ["predicted_iou", "iou"])
    errors = [
        text for probe in probes for text in (str(len(probe.objects)), "error", _percent(calibration_error(probe)))
    ]
    columns = [text for probe in probes for text in (f"{probe.title}: objects", "predicted", "real")]
    return Table("Predicted and real IoU (%)", ["predicted IoU", *columns], [*rows, ["all", *errors]])


def size_table(probes: Sequence[Probe]) -> Table:
    """Return DSC by the share of the image that an object takes."""
    names = [f"{100 * low:g} to {100 * high:g} %" for low, high in itertools.pairwise(AREA_EDGES)]
    columns = [text for probe in probes for text in (f"{probe.title}: objects", "DSC")]
    rows = _bin_rows(names, [by_size(probe) for probe in probes], ["dsc"])
    return Table("DSC (%) over the share of the image that an object takes", ["share", *columns], rows)


def _bin_rows(names: Sequence[str], found: Sequence[pd.DataFrame], means: list[str]) -> list[list[str]]:
    """Return one row a bin: its name, and for each probe the number of objects and the means."""
    return [
        [name, *(text for one in found for text in (str(one["n"][place]), *map(_percent, one.loc[place, means])))]
        for place, name in enumerate(names)
    ]
