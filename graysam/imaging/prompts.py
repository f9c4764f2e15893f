"""Decide, once for files and arrays alike, what is a volume, which boxes fit an image and which labels there are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
Bounds = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max, inclusive pixel indices

LARGEST_LABEL = 65535  # masks are uint16


def is_volume(image: AnyArray, boxes: AnyArray, declared: bool | None = None) -> bool:
    """Return whether an image is a volume (D, H, W) and not (H, W) or (H, W, C).

    Six box columns mean 3D, four 2D; without boxes, two axes mean 2D and three 3D. Where an axis is so short that it
    may hold channels, an empty (0, 4) or (0, 6) decides, then what is declared, then the dtype: uint8 of (H, W, 1 or 3)
    is a picture. Six columns on such an image mean 3D where that is declared or all boxes lie in the volume.

    Args:
        image: the stored array.
        boxes: (N, 4), (N, 6) or, without any, (0,).
        declared: what the file says by its name or a spacing, see `io.image`; None where it says nothing.

    Raises:
        ValueError: boxes of another dtype or shape, an empty image, an image that does not fit the boxes, or one that
            fits both readings.
    """
    _check_columns(boxes, (4, 6))
    shape = image.shape
    colour = len(shape) == 3 and shape[2] in (1, 3)
    open_to_both = False
    volume: bool
    if boxes.size:
        volume = boxes.shape[1] == 6
        if volume and colour and declared is not True:  # six columns of a detector's picture may hold scores
            open_to_both = declared is False or bool((boxes[:, :3] < 0).any() or (boxes[:, 3:] > shape[::-1]).any())
    elif colour or (len(shape) == 3 and shape[0] in (1, 3)):
        if boxes.ndim == 2 and (colour or boxes.shape[1] == 6):  # (0, 4) or (0, 6)
            declared = boxes.shape[1] == 6
        volume = bool(declared)
        open_to_both = declared is None and not (colour and image.dtype == np.uint8)
    else:
        volume = len(shape) == 3
    if open_to_both:
        raise ValueError(
            f"the image of shape {shape} may be a volume (D,H,W) or a picture with channels; required: boxes (N,6) "
            "within the volume or (N,4); a name that begins with 3DBox_ or 2DBox_, or Image(pixels, is_volume=...)"
        )
    check_image_shape(shape, volume)
    return volume


def check_image_shape(shape: tuple[int, ...], volume: bool) -> None:
    """Raise ValueError where an image is empty, or neither (D, H, W) as a volume nor (H, W) or (H, W, 1 or 3)."""
    fits = len(shape) == 3 if volume else len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if not fits:
        required = "(D,H,W) with 3D boxes or masks" if volume else "(H,W) or (H,W,3) RGB with 2D boxes or masks"
        raise ValueError(f"the image has shape {shape}; required: {required}; leave out an alpha channel")
    if 0 in shape:
        raise ValueError(f"the image has shape {shape}; required: at least one pixel")


def is_mask_volume(shape: tuple[int, ...], declared: bool | None, name: str) -> bool:
    """Return whether multi-label masks are those of a volume, (D, H, W), and not (H, W).

    Args:
        shape: of two or three axes.
        declared: see `is_volume`.
        name: what the message calls the masks.

    Raises:
        ValueError: an axis may hold channels (the first of 1 or 3, the last of 1, 3 or 4), and no volume is declared.
    """
    if len(shape) == 3 and not declared and (shape[0] in (1, 3) or shape[2] in (1, 3, 4)):
        raise ValueError(
            f"{name} of shape {shape} may be a volume (D,H,W) or a picture's masks with channels; required: (H,W) for "
            "a picture; for a volume a spacing, or a name that begins with 3DBox_"
        )
    return len(shape) == 3


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
        ValueError: boxes of another dtype or shape, more boxes than labels, or a box that is not finite, inverted, or
            wholly outside.
    """
    columns = 6 if volume else 4
    _check_columns(boxes, (columns,) if boxes.size else (4, 6))
    boxes = boxes.reshape(-1, columns)
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


def _check_columns(boxes: AnyArray, columns: tuple[int, ...]) -> None:
    """Raise ValueError for boxes that are neither numbers of shape (N, one of the columns) nor without any, (0,)."""
    if boxes.dtype.kind not in "iuf" or not (boxes.shape == (0,) or (boxes.ndim == 2 and boxes.shape[1] in columns)):
        required = " or ".join({4: "(N,4) in 2D", 6: "(N,6) in 3D"}[number] for number in columns)
        given = f"boxes have dtype {boxes.dtype} and shape {boxes.shape}"
        raise ValueError(f"{given}; required: numbers of shape {required}, one box a row")


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
        ValueError: another dtype, or labels outside 0..65535; `name` is what the message calls them.
    """
    if labels.dtype.kind == "b":
        return labels.astype(np.uint8)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name} have dtype {labels.dtype}; required: integers or bool; convert them")
    if labels.size and (labels.min() < 0 or labels.max() > LARGEST_LABEL):
        raise ValueError(f"{name} hold labels from {labels.min()} to {labels.max()}; required: 0 to {LARGEST_LABEL}")
    return labels
