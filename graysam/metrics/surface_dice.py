"""Surface Dice (NSD): the share of both surfaces' area within a tolerance of the other surface.

Source: Nikolov et al., arXiv:1809.04430. `graysam.metrics.surface` defines a mask's surface and its area.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from graysam.metrics.dice import NAN, Mask
from graysam.metrics.surface import contour_lengths, face_areas, neighbour_codes, surface_areas

CodePair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Spacing = Sequence[float] | NDArray[np.float64]


def volume_surface_dice(gt: Mask, pred: Mask, spacing_mm: Spacing, tolerance_mm: float) -> float:
    """Return the surface Dice of two volumes.

    Args:
        gt: bool (D,H,W).
        pred: bool (D,H,W).
        spacing_mm: three positive numbers in array order.
        tolerance_mm: largest distance to the other surface.

    Returns:
        A fraction; NaN where both masks are empty, 0 where one is.
    """
    areas, scale = surface_areas(tuple(spacing_mm)), np.asarray(spacing_mm, np.float64)
    (gt_points, gt_codes), (pred_points, pred_codes) = _surface_points(gt), _surface_points(pred)
    total = float(areas[gt_codes].sum() + areas[pred_codes].sum())
    if not total:
        return NAN
    if not len(gt_points) or not len(pred_points):
        return 0.0
    within = areas[gt_codes][_within(gt_points, pred_points, scale, tolerance_mm)].sum()
    within += areas[pred_codes][_within(pred_points, gt_points, scale, tolerance_mm)].sum()
    return float(within) / total


def image_surface_dice(codes: CodePair, tolerance_px: float) -> float:
    """Return the official surface Dice of two images: that of one-slice volumes of spacing 1.

    Every foreground pixel is surface there, on the slice's two faces. Both faces have the same codes at the same
    places, so one of them is enough.

    Args:
        codes: `neighbour_codes` of both images, uint8 (H+1,W+1).
        tolerance_px: largest distance to the other surface.

    Returns:
        A fraction; NaN where both masks are empty, 0 where one is.
    """
    return _share_near(codes, [code != 0 for code in codes], face_areas(), tolerance_px)


def contour_dice(codes: CodePair, tolerance_px: float) -> float:
    """Return the surface Dice of two images' contours (marching squares); see `image_surface_dice`."""
    return _share_near(codes, [(code != 0) & (code != 15) for code in codes], contour_lengths(), tolerance_px)


def _share_near(codes: CodePair, borders: Sequence[Mask], areas: NDArray[np.float64], tolerance_px: float) -> float:
    """Return the share of two code maps' area that lies near the other map's border.

    On a grid of spacing 1 the places within a distance of a border are the border dilated by a disc: exact, and faster
    than distances.
    """
    near = [cv2.dilate(border.view(np.uint8), _disc(tolerance_px)) for border in borders]
    total = sum(float(np.bincount(code.ravel(), minlength=16) @ areas) for code in codes)
    within = sum(
        float(np.bincount(code[other != 0], minlength=16) @ areas)
        for code, other in zip(codes, reversed(near), strict=True)
    )
    return within / total if total else NAN


def _within(points: NDArray[Any], others: NDArray[Any], spacing_mm: NDArray[np.float64], tolerance_mm: float) -> Mask:
    """Return which points (N,3), in voxels, lie at most `tolerance_mm` from one of the others (M,3)."""
    reach = tolerance_mm * (1 + 1e-6) + 1e-9  # the bound is exclusive and its coordinates are rounded
    _, nearest = KDTree(others * spacing_mm, balanced_tree=False, compact_nodes=False).query(
        points * spacing_mm, distance_upper_bound=reach
    )
    found: Mask = nearest < len(others)
    # Whole voxels times spacing, as a distance transform computes it, so that ties are decided the same way.
    offsets = (points[found] - others[nearest[found]]) * spacing_mm
    found[found] = np.sqrt((offsets**2).sum(axis=1)) <= tolerance_mm
    return found


def _surface_points(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Return positions (N,3) and codes (N,) of the neighbourhoods that are partly inside."""
    codes = neighbour_codes(mask)
    points = np.argwhere((codes != 0) & (codes != 255))
    return points, codes[tuple(points.T)]


@lru_cache(maxsize=8)
def _disc(radius: float) -> NDArray[np.uint8]:
    steps = np.arange(-int(radius), int(radius) + 1)
    return (np.hypot(steps[:, None], steps) <= radius).astype(np.uint8)
