"""DSC and official NSD of validation objects on the 256 grid, averaged per group, modality and over modalities."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graysam.metrics import binary_metrics

MACRO = "macro"


@dataclass(frozen=True)
class ObjectScore:
    """One object's DSC and NSD in [0,1], slice-wise at 256 pixels."""

    group: str
    modality: str
    dsc: float
    nsd: float


@dataclass
class Scores:
    """Collects object scores and averages them."""

    objects: list[ObjectScore] = field(default_factory=list)

    def add(self, group: str, modality: str, mask: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> None:
        """Score one object: bool (256,256) ground truth and prediction."""
        dsc, nsd = binary_metrics(mask, predicted)
        self.objects.append(ObjectScore(group, modality, dsc, nsd))

    def by(self, attribute: str) -> dict[str, tuple[float, float, int]]:
        """Return mean DSC, mean NSD and number of objects by `group` or `modality`, sorted by name."""
        found: dict[str, list[ObjectScore]] = defaultdict(list)
        for score in self.objects:
            found[getattr(score, attribute)].append(score)
        return {
            name: (
                float(np.mean([s.dsc for s in found[name]])),
                float(np.mean([s.nsd for s in found[name]])),
                len(found[name]),
            )
            for name in sorted(found)
        }

    def macro(self) -> tuple[float, float]:
        """Return DSC and NSD averaged over modalities; NaN without objects."""
        modalities = list(self.by("modality").values())
        if not modalities:
            return float("nan"), float("nan")
        return float(np.mean([m[0] for m in modalities])), float(np.mean([m[1] for m in modalities]))

    def summary(self) -> dict[str, dict[str, float]]:
        """Return `{modality or "macro": {"dsc", "nsd", "n"}}` of plain numbers."""
        table = {name: {"dsc": d, "nsd": s, "n": float(n)} for name, (d, s, n) in self.by("modality").items()}
        dsc, nsd = self.macro()
        return {**table, MACRO: {"dsc": dsc, "nsd": nsd, "n": float(len(self.objects))}}


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
