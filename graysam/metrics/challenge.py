"""Dice and surface Dice (NSD) as the CVPR 2024 MedSAM-on-Laptop challenge scores them, and a contour NSD.

NSD is the share of both surfaces' area that lies within a tolerance of the other surface (Nikolov et al.,
arXiv:1809.04430); `graysam.metrics.surface` says where a mask's surface lies and how large it is. NumPy, SciPy and
OpenCV only.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import KDTree

from graysam.metrics.surface import contour_lengths, face_areas, neighbour_codes, surface_areas

Absent = Literal["skip", "official"]
Mask = NDArray[np.bool_]
Bounds = tuple[slice, ...]
Spacing = Sequence[float] | NDArray[np.float64]

TOLERANCE = 2.0  # mm in 3D, px in 2D: the challenge's
NSD_NEEDS_DICE = 0.2  # the challenge sets NSD to 0 unless the case's mean DSC is above this
MAX_LABEL = 65535  # segs are uint16

_NAN = float("nan")


class CaseMetrics(NamedTuple):
    """Scores of one case (or means of them), fractions from 0 to 1; NaN where there is nothing to score."""

    dsc: float
    nsd: float
    nsd_contour: float


# ------------------------------------------------------------------------------------- whole cases


def case_metrics(
    gts: NDArray[Any],
    segs: NDArray[Any],
    spacing_mm: Spacing | None = None,
    tolerance: float = TOLERANCE,
    *,
    absent: Absent = "skip",
) -> CaseMetrics:
    """Score one case by the challenge's rules: every label from 1 to `gts.max()`, averaged over the labels.

    gts, segs: integers, (H,W) or (D,H,W); labels of segs above `gts.max()` do not count. spacing_mm: three
    numbers in array order for (D,H,W); ignored for (H,W), which is measured in pixels as a one-slice volume
    (H,W,1) of spacing (1,1,1), so that `nsd` counts every foreground pixel as surface. `nsd_contour` measures
    the real contour of an image instead, and equals `nsd` for a volume. tolerance: mm or px. Both NSD are 0
    unless the mean DSC is above 0.2.

    A label in segs alone scores 0. A label in neither (a gap in the numbering): `absent="skip"` leaves it out
    of the means, `absent="official"` makes the mean DSC NaN and NSD thereby 0, as the challenge's script
    does. gts without any label cannot be scored: all NaN with "skip"; DSC NaN and NSD 0 with "official".

    Raises ValueError for shapes that differ, other ranks, non-integers, labels outside 0..65535, or a volume
    without three positive spacings.
    """
    if absent not in ("skip", "official"):
        raise ValueError(f"absent is {absent!r}; required: skip or official")
    _check_tolerance(tolerance)
    _check_label_maps(gts, segs)
    spacing = None if gts.ndim == 2 else _checked_spacing(spacing_mm)
    last = int(gts.max(initial=0))
    bounds = _label_bounds(gts, segs, last)

    scores = [_dice(gt, pred) for gt, pred in _label_masks(gts, segs, bounds)]
    if absent == "official":
        scores += [_NAN] * (last - len(scores))
        dsc = float(np.mean(scores)) if scores else _NAN
    elif last == 0:
        return CaseMetrics(_NAN, _NAN, _NAN)
    else:
        dsc = float(np.mean(scores))
    if not dsc > NSD_NEEDS_DICE:  # NaN fails too, as in the challenge's script
        return CaseMetrics(dsc, 0.0, 0.0)
    if spacing is not None:
        nsd = float(
            np.mean([_volume_surface_dice(*masks, spacing, tolerance) for masks in _label_masks(gts, segs, bounds)])
        )
        return CaseMetrics(dsc, nsd, nsd)
    pairs = [_image_surface_dices(gt, pred, tolerance) for gt, pred in _label_masks(gts, segs, bounds)]
    nsd, contour = np.mean(pairs, axis=0)
    return CaseMetrics(dsc, float(nsd), float(contour))


def case_dice(gts: NDArray[Any], segs: NDArray[Any]) -> float:
    """Return the `dsc` of `case_metrics` (absent="skip") alone: no surface is measured, no spacing needed.

    gts, segs: integers, (H,W) or (D,H,W). NaN where gts hold no label. Raises ValueError as `case_metrics` does.
    """
    _check_label_maps(gts, segs)
    scores = [_dice(*pair) for pair in _label_masks(gts, segs, _label_bounds(gts, segs, int(gts.max(initial=0))))]
    return float(np.mean(scores)) if scores else _NAN


def binary_metrics(gt: Mask, pred: Mask) -> tuple[float, float]:
    """Return DSC and official NSD (tolerance 2 px, 0 unless DSC > 0.2) of one object on a small grid, fast.

    gt, pred: bool (H,W), 256x256 as a rule (under 1 ms). Both empty: (NaN, NaN); one empty: (0, 0).
    Raises ValueError for other dtypes or shapes.
    """
    gt, pred = _cropped(gt, pred, ranks=(2,))
    dsc = _dice(gt, pred)
    if np.isnan(dsc):
        return _NAN, _NAN
    return dsc, _image_surface_dices(gt, pred, TOLERANCE, contour=False)[0] if dsc > NSD_NEEDS_DICE else 0.0


def modality_means(rows: Iterable[tuple[str, CaseMetrics]]) -> dict[str, CaseMetrics]:
    """Average (modality, case scores) over the cases of each modality, sorted by name.

    NaN is left out, column by column; a column of nothing else is NaN. No rows: an empty dict.
    """
    groups: dict[str, list[CaseMetrics]] = {}
    for modality, scores in rows:
        groups.setdefault(modality, []).append(scores)
    return {modality: _mean(groups[modality]) for modality in sorted(groups)}


def macro_average(rows: Iterable[tuple[str, CaseMetrics]]) -> CaseMetrics:
    """Average over modalities the mean over the cases of each, so that every modality weighs the same.

    rows as in `modality_means`; NaN is left out. No rows: all NaN.
    """
    return _mean(list(modality_means(rows).values()))


# ------------------------------------------------------------------------------------- two masks


def dice(gt: Mask, pred: Mask) -> float:
    """Return the Dice coefficient of two bool arrays of one shape: 2 |gt and pred| / (|gt| + |pred|).

    NaN if both are empty, 0 if one is. Raises ValueError for other dtypes or differing shapes.
    """
    return _dice(*_checked_masks(gt, pred, ranks=(1, 2, 3)))


def surface_dice(gt: Mask, pred: Mask, spacing_mm: Spacing | None = None, tolerance: float = TOLERANCE) -> float:
    """Return the official surface Dice: the share of both surfaces within the tolerance of the other one.

    gt, pred: bool (D,H,W) with three spacings in array order and a tolerance in mm; or bool (H,W), a
    one-slice volume of spacing 1 and a tolerance in px (spacing_mm is ignored). NaN if both are empty, 0 if
    one is. Raises ValueError for other dtypes, differing shapes, a negative tolerance, or a volume without
    three positive spacings.
    """
    gt, pred = _cropped(gt, pred, ranks=(2, 3))
    _check_tolerance(tolerance)
    if gt.ndim == 2:
        return _image_surface_dices(gt, pred, tolerance, contour=False)[0]
    return _volume_surface_dice(gt, pred, _checked_spacing(spacing_mm), tolerance)


def contour_dice(gt: Mask, pred: Mask, tolerance_px: float = TOLERANCE) -> float:
    """Return the share of both contours' length (marching squares) within tolerance_px of the other contour.

    gt, pred: bool (H,W). NaN if both are empty, 0 if one is. Raises ValueError for other dtypes, differing
    shapes or a negative tolerance.
    """
    gt, pred = _cropped(gt, pred, ranks=(2,))
    _check_tolerance(tolerance_px)
    return _image_surface_dices(gt, pred, tolerance_px)[1]


def _dice(gt: Mask, pred: Mask) -> float:
    total = np.count_nonzero(gt) + np.count_nonzero(pred)
    return 2 * np.count_nonzero(gt & pred) / total if total else _NAN


def _image_surface_dices(gt: Mask, pred: Mask, tolerance: float, contour: bool = True) -> tuple[float, float]:
    """Surface Dice of the one-slice volume and, if asked for, of the contour.

    The slice's two faces bear the same codes at the same places, so one face is enough. On a grid of spacing
    1 the neighbourhoods within the tolerance of a border are the border dilated by a disc: exact, and cheaper
    than distances.
    """
    codes = neighbour_codes(gt), neighbour_codes(pred)
    disc = _disc(tolerance)
    faces = face_areas()
    nsd = _share_within(codes, [cv2.dilate((code != 0).view(np.uint8), disc) for code in codes], faces)
    if not contour:
        return nsd, _NAN
    lengths = contour_lengths()
    borders = [((code != 0) & (code != 15)).view(np.uint8) for code in codes]
    return nsd, _share_within(codes, [cv2.dilate(border, disc) for border in borders], lengths)


def _share_within(codes: Sequence[NDArray[np.uint8]], near: Sequence[Any], areas: NDArray[np.float64]) -> float:
    """Share of two code maps' area that lies where the other map's dilated border, `near`, is non-zero."""
    total = sum(float(np.bincount(code.ravel(), minlength=16) @ areas) for code in codes)
    within = sum(
        float(np.bincount(code[other != 0], minlength=16) @ areas)
        for code, other in zip(codes, reversed(near), strict=True)
    )
    return within / total if total else _NAN


def _volume_surface_dice(gt: Mask, pred: Mask, spacing_mm: tuple[float, ...], tolerance_mm: float) -> float:
    areas = surface_areas(spacing_mm)
    (gt_points, gt_codes), (pred_points, pred_codes) = _surface_points(gt), _surface_points(pred)
    total = float(areas[gt_codes].sum() + areas[pred_codes].sum())
    if not total:
        return _NAN
    if not len(gt_points) or not len(pred_points):
        return 0.0
    scale = np.array(spacing_mm)
    within = areas[gt_codes][_within(gt_points, pred_points, scale, tolerance_mm)].sum()
    within += areas[pred_codes][_within(pred_points, gt_points, scale, tolerance_mm)].sum()
    return float(within) / total


def _within(
    points: NDArray[np.intp], others: NDArray[np.intp], spacing_mm: NDArray[np.float64], tolerance_mm: float
) -> Mask:
    """Which points (N,3), in voxels, lie at most tolerance_mm from one of the others (M,3)."""
    reach = tolerance_mm * (1 + 1e-6) + 1e-9  # the bound is exclusive and its coordinates are rounded
    _, nearest = KDTree(others * spacing_mm, balanced_tree=False, compact_nodes=False).query(
        points * spacing_mm, distance_upper_bound=reach
    )
    found: Mask = nearest < len(others)
    # Whole voxels times spacing, as a distance transform computes it, so that ties fall the same way.
    offsets = (points[found] - others[nearest[found]]) * spacing_mm
    found[found] = np.sqrt((offsets**2).sum(axis=1)) <= tolerance_mm
    return found


def _surface_points(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Positions (N,3) and codes (N,) of the neighbourhoods that are partly inside."""
    codes = neighbour_codes(mask)
    points = np.argwhere((codes != 0) & (codes != 255))
    return points, codes[tuple(points.T)]


@lru_cache(maxsize=8)
def _disc(radius: float) -> NDArray[np.uint8]:
    steps = np.arange(-int(radius), int(radius) + 1)
    return (np.hypot(steps[:, None], steps) <= radius).astype(np.uint8)


# ------------------------------------------------------------------------------------- labels and checks


def _label_bounds(gts: NDArray[Any], segs: NDArray[Any], last: int) -> dict[int, Bounds]:
    """The slices that hold each label from 1 to `last` in gts or segs; labels in neither are left out."""
    bounds: dict[int, Bounds] = {}
    if not last:
        return bounds
    in_gts, in_segs = (_find_objects(labels, last) for labels in (gts, segs))
    for label, found in enumerate(zip(in_gts, in_segs, strict=True), start=1):
        boxes = [box for box in found if box is not None]
        if boxes:
            bounds[label] = tuple(
                slice(min(side.start for side in sides), max(side.stop for side in sides))
                for sides in zip(*boxes, strict=True)
            )
    return bounds


def _find_objects(labels: NDArray[Any], last: int) -> list[Bounds | None]:
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    found: list[Bounds | None] = find_objects(labels, max_label=last)
    return found


def _label_masks(gts: NDArray[Any], segs: NDArray[Any], bounds: dict[int, Bounds]) -> Iterator[tuple[Mask, Mask]]:
    """Each label's masks, cropped to where either of them is: one pair in memory at a time."""
    for label, box in bounds.items():
        yield gts[box] == label, segs[box] == label


def _cropped(gt: Mask, pred: Mask, ranks: tuple[int, ...]) -> tuple[Mask, Mask]:
    """Both masks, checked and cropped to where either of them is."""
    gt, pred = _checked_masks(gt, pred, ranks)
    box = _find_objects(gt | pred, 1)[0]
    return (gt, pred) if box is None else (gt[box], pred[box])


def _checked_masks(gt: Mask, pred: Mask, ranks: tuple[int, ...]) -> tuple[Mask, Mask]:
    if gt.dtype != bool or pred.dtype != bool:
        raise ValueError(f"masks have dtypes {gt.dtype} and {pred.dtype}; required: bool; compare labels first")
    if gt.shape != pred.shape or gt.ndim not in ranks:
        raise ValueError(f"masks have shapes {gt.shape} and {pred.shape}; required: the same, of rank {ranks}")
    return gt, pred


def _check_label_maps(gts: NDArray[Any], segs: NDArray[Any]) -> None:
    _check_labels("gts", gts)
    _check_labels("segs", segs)
    if gts.shape != segs.shape:
        raise ValueError(f"segs have shape {segs.shape}, gts {gts.shape}; required: the same shape")


def _check_labels(name: str, labels: NDArray[Any]) -> None:
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "uib":
        raise ValueError(f"{name} have shape {labels.shape}, dtype {labels.dtype}; required: integers (H,W) or (D,H,W)")
    if labels.size and (labels.min() < 0 or labels.max() > MAX_LABEL):
        raise ValueError(f"{name} hold labels from {labels.min()} to {labels.max()}; required: 0 to {MAX_LABEL}")


def _check_tolerance(tolerance: float) -> None:
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance is {tolerance}; required: a finite number, 0 or more")


def _checked_spacing(spacing_mm: Spacing | None) -> tuple[float, float, float]:
    values = () if spacing_mm is None else tuple(float(value) for value in spacing_mm)
    if len(values) != 3 or not all(0 < value < float("inf") for value in values):
        raise ValueError(f"spacing_mm is {spacing_mm}; required for a volume: 3 positive numbers in mm, in array order")
    return values


def _mean(scores: Sequence[CaseMetrics]) -> CaseMetrics:
    columns = ([value for value in column if not np.isnan(value)] for column in zip(*scores, strict=True))
    means = [float(np.mean(column)) if column else _NAN for column in columns]
    return CaseMetrics(*means) if means else CaseMetrics(_NAN, _NAN, _NAN)
