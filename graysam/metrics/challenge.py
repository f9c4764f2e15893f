"""Scores of a case by the rules of the CVPR 2024 challenge "Segment Anything in Medical Images on Laptop".

DSC and NSD are means over the labels of a case. `nsd_contour` is added here: the challenge's NSD of a 2D image counts
every foreground pixel as surface.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from graysam.metrics.dice import NAN, Mask, crop_to_masks, dice
from graysam.metrics.surface import neighbour_codes
from graysam.metrics.surface_dice import Spacing, contour_dice, image_surface_dice, volume_surface_dice

Absent = Literal["skip", "official"]
Bounds = tuple[slice, ...]

TOLERANCE = 2.0  # mm in 3D, px in 2D
NSD_NEEDS_DICE = 0.2  # NSD is 0 unless the mean DSC of the case is above this
MAX_LABEL = 65535  # segs are uint16


class CaseMetrics(NamedTuple):
    """Scores of one case, or means of them: fractions, NaN where there is nothing to score."""

    dsc: float
    nsd: float
    nsd_contour: float


def case_metrics(
    gts: NDArray[Any],
    segs: NDArray[Any],
    spacing_mm: Spacing | None = None,
    tolerance: float = TOLERANCE,
    *,
    absent: Absent = "skip",
) -> CaseMetrics:
    """Score one case: every label from 1 to `gts.max()`, averaged over the labels.

    An image is measured in pixels, as a one-slice volume of spacing 1. A label in `segs` alone scores 0, if it is not
    above `gts.max()`; such labels are ignored.

    Args:
        gts: integer labels (H,W) or (D,H,W).
        segs: integer labels of the same shape.
        spacing_mm: three numbers in array order for (D,H,W); ignored for (H,W).
        tolerance: of both NSD, in mm for a volume and px for an image.
        absent: treatment of a label in neither array (a gap in the numbering): "skip" leaves it out of the means;
            "official" makes the mean DSC NaN and NSD 0, as the challenge's script does.

    Returns:
        The scores. Both NSD are 0 unless the mean DSC is above 0.2; for a volume they are the same. Without any label
        in `gts` all are NaN with "skip", and DSC is NaN and NSD 0 with "official".

    Raises:
        ValueError: shapes that differ, other ranks, no integers, labels outside 0..65535, an invalid tolerance, or a
            volume without three positive spacings.
    """
    if absent not in ("skip", "official"):
        raise ValueError(f"absent is {absent!r}; required: skip or official")
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance is {tolerance}; required: a finite number, 0 or more")
    _check_label_maps(gts, segs)
    spacing = _checked_spacing(spacing_mm) if gts.ndim == 3 else None
    bounds, last = _label_bounds(gts, segs), int(gts.max(initial=0))
    if last == 0 and absent == "skip":
        return CaseMetrics(NAN, NAN, NAN)
    dsc = float(np.mean([dice(*masks) for masks in _label_masks(gts, segs, bounds)])) if bounds else NAN
    if absent == "official" and len(bounds) < last:
        dsc = NAN
    if not dsc > NSD_NEEDS_DICE:  # NaN too, as in the challenge's script
        return CaseMetrics(dsc, 0.0, 0.0)
    nsds, contours = [], []
    for gt, pred in _label_masks(gts, segs, bounds):
        if spacing is not None:
            nsds.append(volume_surface_dice(gt, pred, spacing, tolerance))
        else:
            codes = neighbour_codes(gt), neighbour_codes(pred)
            nsds.append(image_surface_dice(codes, tolerance))
            contours.append(contour_dice(codes, tolerance))
    return CaseMetrics(dsc, float(np.mean(nsds)), float(np.mean(contours or nsds)))


def case_dice(gts: NDArray[Any], segs: NDArray[Any]) -> float:
    """Return the `dsc` of `case_metrics` (absent="skip") alone; no spacing is needed.

    Args:
        gts: integer labels (H,W) or (D,H,W).
        segs: integer labels of the same shape.

    Returns:
        A fraction; NaN where `gts` has no label.

    Raises:
        ValueError: shapes that differ, other ranks, no integers, or labels outside 0..65535.
    """
    _check_label_maps(gts, segs)
    scores = [dice(*masks) for masks in _label_masks(gts, segs, _label_bounds(gts, segs))]
    return float(np.mean(scores)) if scores else NAN


def binary_metrics(gt: Mask, pred: Mask) -> tuple[float, float]:
    """Return DSC and NSD (tolerance 2 px, 0 unless DSC > 0.2) of one object on a small grid, in about 1 ms.

    Args:
        gt: bool (H,W), for example (256,256).
        pred: bool (H,W).

    Returns:
        Two fractions; both NaN where both masks are empty, 0 where one is.

    Raises:
        ValueError: other dtypes or ranks, or shapes that differ.
    """
    dsc = dice(gt, pred)
    if gt.ndim != 2:
        raise ValueError(f"masks have shape {gt.shape}; required: (H,W)")
    if not dsc > NSD_NEEDS_DICE:
        return dsc, 0.0 * dsc  # NaN stays NaN
    gt, pred = crop_to_masks(gt, pred)
    return dsc, image_surface_dice((neighbour_codes(gt), neighbour_codes(pred)), TOLERANCE)


def _label_bounds(gts: NDArray[Any], segs: NDArray[Any]) -> dict[int, Bounds]:
    """Return the slices that hold each label from 1 to `gts.max()` in gts or segs; without labels in neither."""
    last = int(gts.max(initial=0))
    if not last:
        return {}
    maps = (labels.view(np.uint8) if labels.dtype == bool else labels for labels in (gts, segs))
    bounds: dict[int, Bounds] = {}
    for label, found in enumerate(zip(*(find_objects(labels, max_label=last) for labels in maps), strict=True), 1):
        if boxes := [box for box in found if box is not None]:
            bounds[label] = tuple(
                slice(min(side.start for side in sides), max(side.stop for side in sides))
                for sides in zip(*boxes, strict=True)
            )
    return bounds


def _label_masks(gts: NDArray[Any], segs: NDArray[Any], bounds: dict[int, Bounds]) -> Iterator[tuple[Mask, Mask]]:
    """Yield both masks of each label, cropped to its bounds: one pair in memory at a time."""
    for label, box in bounds.items():
        yield gts[box] == label, segs[box] == label


def _check_label_maps(gts: NDArray[Any], segs: NDArray[Any]) -> None:
    for name, labels in (("gts", gts), ("segs", segs)):
        if labels.ndim not in (2, 3) or labels.dtype.kind not in "uib":
            given = f"{name} have shape {labels.shape}, dtype {labels.dtype}"
            raise ValueError(f"{given}; required: integers (H,W) or (D,H,W)")
        if labels.size and (labels.min() < 0 or labels.max() > MAX_LABEL):
            raise ValueError(f"{name} hold labels {labels.min()} to {labels.max()}; required: 0 to {MAX_LABEL}")
    if gts.shape != segs.shape:
        raise ValueError(f"segs have shape {segs.shape}, gts {gts.shape}; required: the same shape")


def _checked_spacing(spacing_mm: Spacing | None) -> tuple[float, ...]:
    values = () if spacing_mm is None else tuple(float(value) for value in spacing_mm)
    if len(values) != 3 or not all(0 < value < float("inf") for value in values):
        raise ValueError(f"spacing_mm is {spacing_mm}; required for a volume: 3 positive numbers in mm, in array order")
    return values
