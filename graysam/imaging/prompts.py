"""Decide, once for files and arrays alike, what is a volume, which boxes fit an image and which labels there are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
Bounds = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max, inclusive pixel indices

LARGEST_LABEL = 65535  # masks are uint16


def is_volume(image_shape: tuple[int, ...], boxes: AnyArray, *, hint: bool = False) -> bool:
    """Return whether an image is a volume (D, H, W) and not (H, W) or (H, W, C).

    Six box columns mean 3D, four 2D. Without boxes two axes mean 2D and three 3D; where the last axis has a length of 1
    or 3 and both would fit, an empty (0, 4) or (0, 6) decides, then the hint.

    Args:
        image_shape: of the stored array.
        boxes: (N, 4), (N, 6) or, without any, (0,).
        hint: what is known from elsewhere, e.g. the file's name.

    Raises:
        ValueError: boxes of another dtype or shape, an empty image, or an image that does not fit the boxes.
    """
    if boxes.dtype.kind not in "iuf" or not (boxes.shape == (0,) or (boxes.ndim == 2 and boxes.shape[1] in (4, 6))):
        given = f"boxes have dtype {boxes.dtype} and shape {boxes.shape}"
        raise ValueError(f"{given}; required: numbers of shape (N,4) in 2D or (N,6) in 3D, one box a row")
    volume: bool
    if boxes.size:
        volume = boxes.shape[1] == 6
    elif len(image_shape) == 3 and image_shape[2] in (1, 3):
        volume = boxes.shape[1] == 6 if boxes.ndim == 2 else hint
    else:
        volume = len(image_shape) == 3
    check_image_shape(image_shape, volume)
    return volume


def check_image_shape(shape: tuple[int, ...], volume: bool) -> None:
    """Raise ValueError where an image is empty, or neither (D, H, W) as a volume nor (H, W) or (H, W, 1 or 3)."""
    fits = len(shape) == 3 if volume else len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if not fits:
        required = "(D,H,W) with 3D boxes or masks" if volume else "(H,W) or (H,W,3) RGB with 2D boxes or masks"
        raise ValueError(f"the image has shape {shape}; required: {required}; leave out an alpha channel")
    if 0 in shape:
        raise ValueError(f"the image has shape {shape}; required: at least one pixel")


def fit_boxes(
    boxes: AnyArray, image_shape: tuple[int, ...], *, volume: bool, z_max_inclusive: bool = True
) -> tuple[AnyArray, tuple[str, ...]]:
    """Clip boxes to an image, or refuse them.

    A box may reach one pixel past the last, as the challenge's own tool writes it, and is then left as it is; what lies
    further outside is clipped to the image.

    Args:
        boxes: (N, 4) x_min, y_min, x_max, y_max, or (N, 6) x_min, y_min, z_min, x_max, y_max, z_max; in pixels.
        image_shape: (H, W[, C]) or (D, H, W).
        volume: whether the image is one.
        z_max_inclusive: whether z_max is the last slice, or the first one after it.

    Returns:
        int64 or float64 boxes of the same shape, (0, 4) or (0, 6) without any, and a note for each that was clipped.

    Raises:
        ValueError: more boxes than labels, or a box that is not finite, inverted, or wholly outside.
    """
    boxes = boxes.reshape(-1, 6 if volume else 4)
    if len(boxes) > LARGEST_LABEL:
        raise ValueError(f"{len(boxes)} boxes; required: at most {LARGEST_LABEL} (masks are uint16); split the case")
    if not np.isfinite(boxes).all():
        row = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise ValueError(f"box {row + 1} is {boxes[row].tolist()}; required: finite numbers; correct or drop it")
    if boxes.dtype.kind == "u":
        boxes = np.minimum(boxes, np.iinfo(np.int64).max)  # before a cast that would wrap
    boxes = boxes.astype(np.float64 if boxes.dtype.kind == "f" else np.int64)
    axes = 3 if volume else 2
    low, high = boxes[:, :axes], boxes[:, axes:]
    last = np.array(image_shape[::-1] if volume else image_shape[1::-1]) - 1  # x, y[, z]
    clip_to = last.copy()
    inverted = (low > high).any(axis=1)
    outside = ((high < 0) | (low > last)).any(axis=1)
    if volume and not z_max_inclusive:
        clip_to[2] += 1
        inverted |= np.trunc(low[:, 2]) >= np.trunc(high[:, 2])
        outside |= high[:, 2] <= 0
    limit = last + np.array([1, 1, not z_max_inclusive])[:axes]  # left as it is up to here
    for wrong, what in ((inverted, "inverted or empty"), (outside, "wholly outside the image")):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            order = "x_min,y_min,z_min,x_max,y_max,z_max" if volume else "x_min,y_min,x_max,y_max"
            given = f"box {row + 1}, {order} = {boxes[row].tolist()}, is {what} (image {image_shape})"
            raise ValueError(f"{given}; required: minimum <= maximum and a part inside; correct or drop the box")
    clipped = np.concatenate([np.maximum(low, 0), np.where(high > limit, clip_to, high)], axis=1)
    changed = np.flatnonzero((clipped != boxes).any(axis=1))
    notes = [f"box {row + 1} clipped to the image: {boxes[row].tolist()} -> {clipped[row].tolist()}" for row in changed]
    return clipped.astype(boxes.dtype, copy=False), tuple(notes)


def mask_bounds(mask: AnyArray) -> Bounds | None:
    """Return the smallest box around what is not zero in a mask (H, W), or None where there is nothing."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def check_labels(labels: AnyArray, name: str) -> AnyArray:
    """Return multi-label masks as integers, bool as uint8.

    Raises:
        ValueError: labels outside 0..65535; `name` is what the message calls them.
    """
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.size and (labels.min() < 0 or labels.max() > LARGEST_LABEL):
        raise ValueError(f"{name} hold labels from {labels.min()} to {labels.max()}; required: 0 to {LARGEST_LABEL}")
    return labels
