"""DSC and official NSD of validation objects on the 256 grid, averaged per group, modality and over modalities."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graysam.metrics.challenge import binary_metrics

MACRO = "macro"


@dataclass(frozen=True)
class ObjectScore:
    """One object's DSC and NSD in [0,1], slice-wise at 256 pixels, and its loss (NaN where there is none).

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
        loss: float = float("nan"),
        key: str = "",
        prompt: int = 0,
    ) -> ObjectScore:
        """Score one object: bool (256,256) ground truth and prediction."""
        dsc, nsd = binary_metrics(mask, predicted)
        score = ObjectScore(group, modality, dsc, nsd, loss, key, prompt)
        self.objects.append(score)
        return score

    def by(self, attribute: str) -> dict[str, Means]:
        """Return the means by `group` or `modality`, sorted by name."""
        found: dict[str, list[ObjectScore]] = defaultdict(list)
        for score in self.objects:
            found[getattr(score, attribute)].append(score)
        return {name: _means([(s.dsc, s.nsd, s.loss) for s in found[name]]) for name in sorted(found)}

    def macro(self) -> Means:
        """Return the means over modalities of their means, n being all objects; NaN without objects."""
        modalities = [means[:3] for means in self.by("modality").values()]
        return _means(modalities)._replace(n=len(self.objects))

    def summary(self) -> dict[str, dict[str, float]]:
        """Return `{modality or "macro": {"dsc", "nsd", "n"}}` of plain numbers."""
        rows = {**self.by("modality"), MACRO: self.macro()}
        return {name: {"dsc": m.dsc, "nsd": m.nsd, "n": float(m.n)} for name, m in rows.items()}

    def rows(self) -> list[list[str | int | float]]:
        """Return a row an object, plain and short: key of its slice, number of its box, modality, DSC, NSD."""
        return [[s.key, s.prompt, s.modality, round(s.dsc, 6), round(s.nsd, 6)] for s in self.objects]


def _means(rows: Sequence[tuple[float, float, float]]) -> Means:
    if not rows:
        return Means(float("nan"), float("nan"), float("nan"), 0)
    dsc, nsd, loss = np.mean(rows, axis=0).tolist()
    return Means(dsc, nsd, loss, len(rows))


def comparison_table(columns: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return a text table: one row a modality and the macro average, DSC / NSD in per cent for every column.

    Args:
        columns: title -> `Scores.summary()`; rows are those of the first column.
    """
    first = next(iter(columns.values()))
    names = [*[name for name in first if name != MACRO], MACRO]
    lines = [f"{'modality':<14}{'objects':>8}  " + "  ".join(f"{title:>18}" for title in columns)]
    lines.append(f"{'':<14}{'':>8}  " + "  ".join(f"{'DSC / NSD':>18}" for _ in columns))
    for name in names:
        cells = (f"{100 * c[name]['dsc']:.2f} / {100 * c[name]['nsd']:.2f}" for c in columns.values())
        lines.append(f"{name:<14}{int(first[name]['n']):>8}  " + "  ".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def filled_box(box_xyxy: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """Return the mask that fills a box (4,) of inclusive pixel indices on a (size,size) grid."""
    mask = np.zeros((size, size), dtype=bool)
    x0, y0, x1, y1 = (int(v) for v in box_xyxy)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def score_filled_boxes(items: Iterable[tuple[str, str, NDArray[np.float32], NDArray[np.bool_]]], size: int) -> Scores:
    """Score the answer "everything inside the box": items of (group, modality, boxes (N,4), masks (N,size,size))."""
    scores = Scores()
    for group, modality, boxes, masks in items:
        for box, mask in zip(boxes, masks, strict=True):
            scores.add(group, modality, mask, filled_box(box, size))
    return scores
