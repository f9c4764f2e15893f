"""DSC and official NSD of validation objects on the 256 grid, averaged per group, per modality and over modalities."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from graysam.data.dataset import Item
from graysam.metrics.aggregation import MACRO, macro_average, modality_means
from graysam.metrics.challenge import binary_metrics
from graysam.reporting import schemas


class ObjectScore(NamedTuple):
    """One object's DSC and NSD in [0,1], slice-wise at 256 pixels, and its loss (NaN without one).

    `key` names the slice in its shard, `prompt` is the number of the object's box on that slice, from 0.
    """

    group: str
    modality: str
    dsc: float
    nsd: float
    loss: float = math.nan
    key: str = ""
    prompt: int = 0


class Means(NamedTuple):
    """Means of DSC, NSD and loss over n objects."""

    dsc: float
    nsd: float
    loss: float
    n: int


class Scores(list[ObjectScore]):
    """Object scores and their averages."""

    def by(self, attribute: str) -> dict[str, Means]:
        """Return the means by `group` or `modality`, sorted by name."""
        counts = Counter(getattr(score, attribute) for score in self)
        means = modality_means((getattr(s, attribute), (s.dsc, s.nsd, s.loss)) for s in self)
        return {name: Means._make([*values.tolist(), counts[name]]) for name, values in means.items()}

    def by_modality(self) -> dict[str, Means]:
        """Return the means by modality, and MACRO: the means of these with all objects as n; there must be one."""
        macro = macro_average((s.modality, (s.dsc, s.nsd, s.loss)) for s in self)
        return {**self.by("modality"), MACRO: Means._make([*macro.tolist(), len(self)])}

    def summary(self) -> dict[str, dict[str, float]]:
        """Return `{modality or "macro": {"dsc", "nsd", "n"}}` of plain numbers."""
        return {name: {"dsc": m.dsc, "nsd": m.nsd, "n": float(m.n)} for name, m in self.by_modality().items()}

    def rows(self) -> list[schemas.ObjectScore]:
        """Return every object's DSC and NSD as they are stored, to six digits."""
        return [schemas.ObjectScore(s.key, s.prompt, s.modality, round(s.dsc, 6), round(s.nsd, 6)) for s in self]


def comparison_table(columns: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format a text table with a row per modality and for the macro average, DSC / NSD in per cent in every column.

    Args:
        columns: title -> `Scores.summary()`; rows are those of the first column.
    """
    rows = [
        [name, int(first["n"]), *(f"{100 * c[name]['dsc']:.2f} / {100 * c[name]['nsd']:.2f}" for c in columns.values())]
        for name, first in next(iter(columns.values())).items()
    ]
    headers = ["modality", "objects", *(f"{title}\nDSC / NSD" for title in columns)]
    return tabulate(rows, headers, tablefmt="plain", colalign=("left", *["right"] * (len(columns) + 1)))


def score_filled_boxes(items: Iterable[Item]) -> Scores:
    """Score the prediction "everything inside the box" for every prompt of the items."""
    scores = Scores()
    for item in items:
        for (x0, y0, x1, y1), mask in zip(item.boxes.int().tolist(), item.masks.numpy(), strict=True):
            filled = np.zeros_like(mask)
            filled[y0 : y1 + 1, x0 : x1 + 1] = True  # a box holds its last pixel
            scores.append(ObjectScore(item.group, item.modality, *binary_metrics(mask, filled)))
    return scores
