"""Masks from the network's grid to native pixels.

A mask is its logits, resized once bilinearly (pixel centres, align_corners False) and thresholded at 0, which is
probability 0.5. An interpolated value between values that are not positive is not positive either, rounding included.
So pixels farther than one grid pixel from every positive logit are skipped; the masks are the same, bit for bit.
OpenCV's resize cannot do this, because a part of an image is resized with another phase.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from graysam.imaging.canvas import Canvas
from graysam.imaging.prompts import Bounds, mask_bounds

AnyArray = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.intp]
Float32Array = npt.NDArray[np.float32]

BLOCK_PIXELS = 1 << 16  # of float32, which fit into a core's cache


def grow_bounds(bounds: Bounds, margin: int, limits: Bounds) -> Float32Array:
    """Return bounds grown by `margin` pixels a side and clipped to other bounds, as a box float32 (4,).

    Bounds wholly outside give a box that is inverted or empty.
    """
    (x_min, y_min, x_max, y_max), (left, top, right, bottom) = bounds, limits
    low = max(x_min - margin, left), max(y_min - margin, top)
    return np.array([*low, min(x_max + margin, right), min(y_max + margin, bottom)], np.float32)


def box_from_mask(mask: AnyArray, margin: int, limit: int) -> Float32Array | None:
    """Return the bounding box of a mask (H, W), grown by `margin` pixels a side and clipped, None for an empty mask.

    It is float32 (4,) x_min, y_min, x_max, y_max, inclusive pixel indices of the mask's grid. The reference
    (LiteMedSAM's get_bbox256) clips to `limit` = canvas size, one pixel more than the last one.
    """
    bounds = mask_bounds(mask)
    return None if bounds is None else grow_bounds(bounds, margin, (0, 0, limit, limit))


def positive_bounds(logits: Float32Array, canvas: Canvas) -> Bounds | None:
    """Return the bounds of the positive logits (size, size) in the part of the grid that the image covers."""
    return mask_bounds(logits[: canvas.resized_height, : canvas.resized_width] > 0)


def native_blocks(
    logits: Float32Array, canvas: Canvas, bounds: Bounds | None
) -> Iterator[tuple[slice, slice, BoolArray]]:
    """Yield the native mask in blocks, as rows, columns and mask; the mask is empty elsewhere.

    Args:
        logits: float32 (size, size).
        canvas: geometry of the image.
        bounds: `positive_bounds` of the logits; None yields nothing.
    """
    if bounds is None:
        return
    x_min, y_min, x_max, y_max = bounds
    first_column, left, right, column_weight = _samples(canvas.width, canvas.resized_width, x_min, x_max)
    start_row, above, below, row_weight = _samples(canvas.height, canvas.resized_height, y_min, y_max)
    if not left.size or not above.size:  # an image smaller than the grid can miss a single pixel
        return
    first_row = above[0]
    grid_rows = logits[first_row : below[-1] + 1]
    values = grid_rows.take(left, axis=1)
    step = grid_rows.take(right, axis=1)
    step -= values
    step *= column_weight
    values += step
    # value + weight * step > 0 is computed as weight * step > -value, which saves the sum.
    np.subtract(values[1:], values[:-1], out=step[:-1])
    step[-1] = 0
    np.negative(values, out=values)
    rows_a_block = max(BLOCK_PIXELS // left.size, 1)
    for top in range(0, above.size, rows_a_block):
        part = slice(top, top + rows_a_block)
        at = above[part] - first_row
        rise = step.take(at, axis=0)
        rise *= row_weight[part, None]
        mask = rise > values.take(at, axis=0)
        rows = slice(start_row + top, start_row + top + len(mask))
        yield rows, slice(first_column, first_column + left.size), mask


def mask_to_native(logits: Float32Array, canvas: Canvas) -> BoolArray:
    """Return the mask, bool (H, W), of low-resolution logits, float32 (size, size)."""
    mask = np.zeros((canvas.height, canvas.width), np.bool_)
    for rows, columns, block in native_blocks(logits, canvas, positive_bounds(logits, canvas)):
        mask[rows, columns] = block
    return mask


def _samples(native: int, valid_size: int, first: int, last: int) -> tuple[int, IndexArray, IndexArray, Float32Array]:
    """Return where native pixels lie between grid pixels, of those to which a grid pixel of first..last contributes.

    That is the first native pixel and, for each, the grid pixels before and after and the weight of the one after.
    """
    lower, upper, weight = _all_samples(native, valid_size)
    start, stop = (int(i) for i in np.searchsorted(lower, (first - 1, last + 1)))
    return start, lower[start:stop], upper[start:stop], weight[start:stop]


@lru_cache(maxsize=16)
def _all_samples(native: int, valid_size: int) -> tuple[IndexArray, IndexArray, Float32Array]:
    position = ((np.arange(native) + 0.5) * valid_size / native - 0.5).clip(0, valid_size - 1)
    lower = np.floor(position).astype(np.intp)
    return lower, np.minimum(lower + 1, valid_size - 1), (position - lower).astype(np.float32)
