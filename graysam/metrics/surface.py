"""Surface Dice (NSD): the share of both surfaces' area within a tolerance of the other surface.

Source: Nikolov et al., arXiv:1809.04430. A surface is described by the code of every 2x2(x2) neighbourhood of pixel
(voxel) centres: which of its corners lie in the mask. A code's area is that of polygons through the middles of the cut
edges (marching cubes, marching squares).
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

Mask = NDArray[np.bool_]
CodePair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Spacing = Sequence[float] | NDArray[np.float64]
NAN = float("nan")

_CORNERS = np.array(list(product((0, 1), repeat=3)))  # (z,y,x); the index is the bit
_CUT = np.sqrt(0.5)  # half a diagonal, in px
# Length of the contour in each 2x2 code: a lone corner is cut off by half a diagonal, two of a side by 1, two opposite
# ones by two cuts.
_CONTOUR_LENGTHS = np.array([0, _CUT, _CUT, 1, _CUT, 1, 2 * _CUT, _CUT, _CUT, 2 * _CUT, 1, _CUT, 1, _CUT, _CUT, 0])


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
    if not len(gt_points) or not len(pred_points):
        return 0.0 if total else NAN
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
    return _share_near(codes, [code != 0 for code in codes], surface_areas((1, 1, 1))[:16], tolerance_px)


def contour_dice(codes: CodePair, tolerance_px: float) -> float:
    """Return the surface Dice of two images' contours; see `image_surface_dice`."""
    return _share_near(codes, [(code != 0) & (code != 15) for code in codes], _CONTOUR_LENGTHS, tolerance_px)


def neighbour_codes(mask: Mask) -> NDArray[np.uint8]:
    """Return the code of every neighbourhood of 2 pixels a side, background being all around.

    Args:
        mask: bool (H,W) or (D,H,W).

    Returns:
        uint8, one longer on each axis: [i,j] is the neighbourhood that ends in pixel [i,j]. The corner at offset
        (z,y,x) sets bit 4z + 2y + x; an image's codes are those of a volume whose z=1 half is empty.
    """
    codes = np.pad(mask.view(np.uint8), 1)
    for axis, shift in zip(reversed(range(mask.ndim)), (1, 2, 4), strict=False):
        codes = np.moveaxis(codes, axis, 0)
        codes = np.moveaxis(codes[:-1] | codes[1:] << np.uint8(shift), 0, axis)
    return np.ascontiguousarray(codes)


@lru_cache(maxsize=8)
def surface_areas(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Return each 2x2x2 code's surface area in mm^2, float64 (256,); spacing_mm is (z, y, x)."""
    z, y, x = spacing_mm
    # A vector area's component along an axis scales with the spacings of the two other axes.
    return np.asarray(np.linalg.norm(_triangle_areas() * (y * x, z * x, z * y), axis=2).sum(axis=1))


@lru_cache(maxsize=1)
def _triangle_areas() -> NDArray[np.float64]:
    """Return the vector areas (z,y,x), float64 (256,4,3), of each code's triangles at spacing 1; unused ones are 0.

    The rules that reproduce the official areas of all 256 codes: the smaller of the two sets of corners is cut off,
    each part that is connected by edges on its own, and a polygon that is not flat is split into the fan (over its
    starting vertex) of the largest area.
    """
    table = np.zeros((256, 4, 3))
    for code in range(256):
        cut_off = code if code.bit_count() <= 4 else 255 - code
        corners = np.array([cut_off >> bit & 1 for bit in range(8)])
        parts, count = ndimage.label(corners.reshape(2, 2, 2))
        polygons = [_polygon(parts.ravel() == part) for part in range(1, count + 1)]
        triangles = [triangle for polygon in polygons for triangle in _largest_fan(polygon)]
        table[code, : len(triangles)] = np.reshape(triangles, (-1, 3))
    return table


def _polygon(inside: Mask) -> NDArray[np.float64]:
    """Return the closed polygon (N,3) through the middles of the edges between corners inside (8,) and the others."""
    first, second = _CORNERS[inside][:, None], _CORNERS[~inside][None]
    middles: NDArray[np.float64] = ((first + second) / 2)[np.abs(first - second).sum(axis=2) == 1]
    # In order of their angles around the axis from the corners inside to the middles.
    around = middles - middles.mean(axis=0)
    axis = middles.mean(axis=0) - _CORNERS[inside].mean(axis=0)
    across = np.cross(axis, around[0])
    angles = np.arctan2(around @ across * np.linalg.norm(axis), around @ np.cross(across, axis))
    return middles[np.argsort(angles)]


def _largest_fan(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the vector areas (N-2,3) of the triangles of that fan over a polygon (N,3) which has the largest area."""
    fans = []
    for start in range(len(polygon)):
        spokes = np.roll(polygon, -start, axis=0)[1:] - polygon[start]
        fans.append(np.cross(spokes[:-1], spokes[1:]) / 2)
    return max(fans, key=lambda fan: float(np.linalg.norm(fan, axis=1).sum()))


def _share_near(codes: CodePair, borders: Sequence[Mask], areas: NDArray[np.float64], tolerance_px: float) -> float:
    """Return the share of two code maps' area that lies near the other map's border.

    On a grid of spacing 1 the places within a distance of a border are the border dilated by a disc: exact, and faster
    than distances.
    """
    steps = np.arange(-int(tolerance_px), int(tolerance_px) + 1)
    disc = (np.hypot(steps[:, None], steps) <= tolerance_px).astype(np.uint8)
    near = [cv2.dilate(border.view(np.uint8), disc) for border in borders]
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
