"""DSC and official NSD of validation objects on the 256 grid, averaged per group, per modality and over modalities."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from graysam.data.dataset import Item
from graysam.metrics.aggregation import MACRO, macro_average, modality_means
from graysam.metrics.challenge import binary_metrics

NAN = float("nan")


class ObjectScore(NamedTuple):
    """One object's DSC and NSD in [0,1], slice-wise at 256 pixels, and its loss (NaN without one).

    `key` names the slice in its shard, `prompt` is the number of the object's box on that slice, from 0.
    """

    group: str
    modality: str
    dsc: float
    nsd: float
    loss: float
    key: str = ""
    prompt: int = 0


class Means(NamedTuple):
    """Means over n objects."""

    dsc: float
    nsd: float
    loss: float
    n: int


@dataclass
class Scores:
    """Collects object scores and averages them."""

    objects: list[ObjectScore] = field(default_factory=list)

    def add(
        self,
        group: str,
        modality: str,
        mask: NDArray[np.bool_],
        predicted: NDArray[np.bool_],
        loss: float = NAN,
        key: str = "",
        prompt: int = 0,
    ) -> ObjectScore:
        """Score one object: bool (256,256) ground truth and prediction."""
        score = ObjectScore(group, modality, *binary_metrics(mask, predicted), loss, key, prompt)
        self.objects.append(score)
        return score

    def by(self, attribute: str) -> dict[str, Means]:
        """Return the means by `group` or `modality`, sorted by name."""
        counts = Counter(getattr(score, attribute) for score in self.objects)
        means = modality_means((getattr(s, attribute), (s.dsc, s.nsd, s.loss)) for s in self.objects)
        return {name: Means._make([*values.tolist(), counts[name]]) for name, values in means.items()}

    def macro(self) -> Means:
        """Return the means over modalities of their means, n being all objects; NaN without objects."""
        if not self.objects:
            return Means(NAN, NAN, NAN, 0)
        means = macro_average((s.modality, (s.dsc, s.nsd, s.loss)) for s in self.objects)
        return Means._make([*means.tolist(), len(self.objects)])

    def summary(self) -> dict[str, dict[str, float]]:
        """Return `{modality or "macro": {"dsc", "nsd", "n"}}` of plain numbers."""
        rows = {**self.by("modality"), MACRO: self.macro()}
        return {name: {"dsc": m.dsc, "nsd": m.nsd, "n": float(m.n)} for name, m in rows.items()}

    def rows(self) -> list[list[str | int | float]]:
        """Return one plain row per object: key of its slice, number of its box, modality, DSC, NSD."""
        return [[s.key, s.prompt, s.modality, round(s.dsc, 6), round(s.nsd, 6)] for s in self.objects]


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
        for box_xyxy, mask in zip(item.boxes.int().tolist(), item.masks.numpy(), strict=True):
            x0, y0, x1, y1 = box_xyxy  # inclusive pixel indices
            filled = np.zeros_like(mask)
            filled[y0 : y1 + 1, x0 : x1 + 1] = True
            scores.add(item.group, item.modality, mask, filled)
    return scores
