"""Scores of a case by the rules of the CVPR 2024 challenge "Segment Anything in Medical Images on Laptop".

DSC and NSD are means over the labels of a case. `nsd_contour` is added here: the challenge's NSD of a 2D image counts
every foreground pixel as surface.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from graysam.metrics import surface
from graysam.metrics.surface import NAN, Mask, Spacing, image_surface_dice, neighbour_codes

Absent = Literal["skip", "official"]
Boxes = dict[int, tuple[slice, ...]]

TOLERANCE = 2.0  # mm in 3D, px in 2D
NSD_NEEDS_DICE = 0.2  # NSD is 0 unless the mean DSC of the case is above this


class CaseMetrics(NamedTuple):
    """Scores of one case, or means of them: fractions, NaN where there is nothing to score."""

    dsc: float
    nsd: float
    nsd_contour: float


def case_metrics(
    gts: NDArray[Any], segs: NDArray[Any], spacing_mm: Spacing | None = None, *, absent: Absent = "skip"
) -> CaseMetrics:
    """Score one case: every label from 1 to `gts.max()`, averaged over the labels, NSD at a tolerance of 2 mm or px.

    An image is measured in pixels, as a one-slice volume of spacing 1. A label in `segs` alone scores 0, if it is not
    above `gts.max()`; such labels are ignored.

    Args:
        gts: integer labels (H,W) or (D,H,W).
        segs: integer labels of the same shape.
        spacing_mm: three numbers in array order for (D,H,W); ignored for (H,W).
        absent: treatment of a label in neither array (a gap in the numbering): "skip" leaves it out of the means;
            "official" makes the mean DSC NaN and NSD 0, as the challenge's script does.

    Returns:
        The scores. Both NSD are 0 unless the mean DSC is above 0.2; for a volume they are the same. Without any label
        in `gts` all are NaN with "skip", and DSC is NaN and NSD 0 with "official".

    Raises:
        ValueError: shapes that differ, other ranks, no integers, or a volume without three positive spacings.
    """
    boxes, last = _label_boxes(gts, segs), int(gts.max(initial=0))
    if gts.ndim == 3 and (spacing_mm is None or len(spacing_mm) != 3 or not all(value > 0 for value in spacing_mm)):
        raise ValueError(f"spacing_mm is {spacing_mm}; required for a volume: 3 positive numbers in mm, in array order")
    if not last and absent == "skip":
        return CaseMetrics(NAN, NAN, NAN)
    dsc = NAN if absent == "official" and len(boxes) < last else _mean_dice(gts, segs, boxes)
    if not dsc > NSD_NEEDS_DICE:  # NaN too, as in the challenge's script
        return CaseMetrics(dsc, 0.0, 0.0)
    nsds, contours = [], []
    for label, box in boxes.items():
        gt, pred = gts[box] == label, segs[box] == label
        if spacing_mm is not None and gts.ndim == 3:
            nsds.append(surface.volume_surface_dice(gt, pred, spacing_mm, TOLERANCE))
        else:
            codes = neighbour_codes(gt), neighbour_codes(pred)
            nsds.append(image_surface_dice(codes, TOLERANCE))
            contours.append(surface.contour_dice(codes, TOLERANCE))
    return CaseMetrics(dsc, float(np.mean(nsds)), float(np.mean(contours or nsds)))


def case_dice(gts: NDArray[Any], segs: NDArray[Any]) -> float:
    """Return the `dsc` of `case_metrics` (absent="skip") alone, a fraction or NaN; no spacing is needed."""
    return _mean_dice(gts, segs, _label_boxes(gts, segs))


def binary_metrics(gt: Mask, pred: Mask) -> tuple[float, float]:
    """Return DSC and NSD (tolerance 2 px, 0 unless DSC > 0.2) of one object on a small grid, in about 1 ms.

    Args:
        gt: bool (H,W), for example (256,256).
        pred: bool (H,W).

    Returns:
        Two fractions; both NaN where both masks are empty, 0 where one is.
    """
    dsc = dice(gt, pred)
    if not dsc > NSD_NEEDS_DICE:
        return dsc, 0.0 * dsc  # NaN stays NaN
    (box,) = find_objects((gt | pred).view(np.uint8))
    return dsc, image_surface_dice((neighbour_codes(gt[box]), neighbour_codes(pred[box])), TOLERANCE)


def dice(gt: Mask, pred: Mask) -> float:
    """Return the Dice coefficient of two masks: 2 |gt and pred| / (|gt| + |pred|).

    Args:
        gt: bool array of any shape.
        pred: bool array of the same shape.

    Returns:
        A fraction; NaN where both masks are empty, 0 where one is.

    Raises:
        ValueError: other dtypes, or shapes that differ.
    """
    if gt.dtype != bool or pred.dtype != bool or gt.shape != pred.shape:
        given = f"{gt.dtype} {gt.shape} and {pred.dtype} {pred.shape}"
        raise ValueError(f"masks are {given}; required: bool of the same shape; compare labels first")
    total = np.count_nonzero(gt) + np.count_nonzero(pred)
    return 2 * np.count_nonzero(gt & pred) / total if total else NAN


def _mean_dice(gts: NDArray[Any], segs: NDArray[Any], boxes: Boxes) -> float:
    return float(np.mean([dice(gts[box] == label, segs[box] == label) for label, box in boxes.items()] or [NAN]))


def _label_boxes(gts: NDArray[Any], segs: NDArray[Any]) -> Boxes:
    """Return the slices that hold each label from 1 to `gts.max()` in gts or segs, without labels in neither."""
    if gts.shape != segs.shape or gts.ndim not in (2, 3) or {gts.dtype.kind, segs.dtype.kind} - set("uib"):
        given = f"gts are {gts.dtype} {gts.shape}, segs {segs.dtype} {segs.shape}"
        raise ValueError(f"{given}; required: integers of the same shape, (H,W) or (D,H,W)")
    last = int(gts.max(initial=0))
    maps = [labels.view(np.uint8) if labels.dtype == bool else labels for labels in (gts, segs)]
    found = zip(*(find_objects(labels, max_label=last) for labels in maps), strict=True) if last else ()
    boxes: Boxes = {}
    for label, pair in enumerate(found, start=1):
        if present := [box for box in pair if box is not None]:
            sides = zip(*present, strict=True)
            boxes[label] = tuple(slice(min(s.start for s in side), max(s.stop for s in side)) for side in sides)
    return boxes
