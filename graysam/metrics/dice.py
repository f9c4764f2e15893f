"""Dice coefficient of two masks."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

Mask = NDArray[np.bool_]
NAN = float("nan")


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
    if gt.dtype != bool or pred.dtype != bool:
        raise ValueError(f"masks have dtypes {gt.dtype} and {pred.dtype}; required: bool; compare labels first")
    if gt.shape != pred.shape:
        raise ValueError(f"masks have shapes {gt.shape} and {pred.shape}; required: the same")
    total = np.count_nonzero(gt) + np.count_nonzero(pred)
    return 2 * np.count_nonzero(gt & pred) / total if total else NAN


def crop_to_masks(gt: Mask, pred: Mask) -> tuple[Mask, Mask]:
    """Return both masks cropped to the smallest box around their union; as they are where both are empty."""
    (box,) = find_objects((gt | pred).view(np.uint8), max_label=1)
    return (gt, pred) if box is None else (gt[box], pred[box])
