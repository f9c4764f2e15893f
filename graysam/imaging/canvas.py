"""The network's square canvas: images and boxes onto it, masks back from it.

The rules are LiteMedSAM's, with which its weights were trained: longest side to `size` by area interpolation,
min-max normalization of the whole resized image, zeros to the bottom and right.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from graysam.imaging.channels import Scheme

AnyArray = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Canvas:
    """Geometry of one image of (height, width) native pixels on a square grid of `size` pixels."""

    height: int
    width: int
    size: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.size) < 1:
            raise ValueError(f"got an image of {self.height}x{self.width} on a grid of {self.size}; all must be >= 1")

    @property
    def scale(self) -> float:
        """Grid pixels per native pixel."""
        return self.size / max(self.height, self.width)

    @property
    def resized_height(self) -> int:
        """Rows of the grid the image covers, at least 1."""
        return max(int(self.height * self.scale + 0.5), 1)

    @property
    def resized_width(self) -> int:
        """Columns of the grid the image covers, at least 1."""
        return max(int(self.width * self.scale + 0.5), 1)


def resize_longest_side(image: AnyArray, size: int) -> AnyArray:
    """Resize so that the longest side becomes `size`, by area interpolation.

    image: (H, W) or (H, W, 3), uint8 or uint16. Returns the same dtype; sides are int(side * scale + 0.5),
    never 0.
    Raises ValueError for an empty image or another dtype (OpenCV wraps int64 silently).
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"got an image of dtype {image.dtype}; uint8 or uint16 is required")
    canvas = Canvas(image.shape[0], image.shape[1], size)
    resized_shape = canvas.resized_width, canvas.resized_height
    return np.asarray(cv2.resize(image, resized_shape, interpolation=cv2.INTER_AREA))


def normalize(image: UInt8Array, out: Float32Array | None = None) -> Float32Array:
    """Scale an image to [0, 1] by the minimum and maximum over all its pixels and channels together.

    image: uint8 of any shape, not empty. Returns float32 of the same shape (`out`, if given); a constant
    image becomes 0.
    """
    low, high = int(image.min()), int(image.max())
    normalized = np.subtract(image, np.float32(low), out=out)
    normalized /= max(high - low, 1e-8)
    return normalized


def pad(image: AnyArray, size: int) -> AnyArray:
    """Pad (H, W) or (H, W, C) with zeros to the bottom and right, to (size, size) or (size, size, C)."""
    height, width = image.shape[:2]
    if max(height, width) > size:
        raise ValueError(f"got an image of {height}x{width}; it must fit in {size}x{size}")
    padded = np.zeros((size, size, *image.shape[2:]), image.dtype)
    padded[:height, :width] = image
    return padded


def to_uint8(image: AnyArray) -> UInt8Array:
    """Bring an image or volume of any real dtype to 8 bits.

    uint8 passes unchanged; everything else (16-bit, float, bool) is scaled by its minimum and maximum to
    0..255 and rounded, a constant array to 0. A trailing axis of length 1 stays. Empty arrays stay empty.
    Raises ValueError for complex, text or object arrays and for values that are not finite.
    """
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    if image.dtype.kind not in "buif":
        raise ValueError(f"got an image of dtype {image.dtype}; real numbers are required")
    if not image.size:
        return np.zeros(image.shape, np.uint8)
    # float32 holds 16-bit integers exactly and halves the memory of a volume.
    scaled = image.astype(np.result_type(image.dtype, np.float32))
    low = scaled.min()
    with np.errstate(over="ignore", invalid="ignore"):
        value_range = scaled.max() - low
    if not np.isfinite(value_range):
        raise ValueError("the image holds NaN, infinite or immense values; ordinary numbers are required")
    scaled -= low
    if value_range > 0:
        scaled /= value_range
    scaled *= 255
    return np.asarray(np.rint(scaled, out=scaled), np.uint8)


def prepare_image(image: AnyArray, scheme: Scheme, size: int, *, training: bool = False) -> Float32Array:
    """Turn an image into the network's input.

    image: (H, W), (H, W, 1) or RGB (H, W, 3); dtypes other than uint8 go through `to_uint8`. Returns
    contiguous float32 (3, size, size). The scheme says where its channels are built. With `native` and
    `resized` the normalization runs over the image alone and the padding is zero; with `padded` both the
    scheme and the normalization see the padding too, as in the released code's training, whose stored images
    are padded.
    Raises ValueError for an empty image or another shape.
    """
    image_u8 = to_uint8(_grey_or_rgb(image))
    stage = scheme.stage(training)
    if stage == "native":
        image_u8 = scheme(image_u8)
    image_u8 = np.asarray(resize_longest_side(image_u8, size), np.uint8)
    if stage == "resized":
        image_u8 = scheme(image_u8)
    elif stage == "padded":
        image_u8 = scheme(np.asarray(pad(image_u8, size), np.uint8))
    height, width = image_u8.shape[:2]
    prepared = np.zeros((3, size, size), np.float32)
    # Channels first while they still are bytes: moving floats costs more than building the channels.
    normalize(np.stack(cv2.split(image_u8)), out=prepared[:, :height, :width])
    return prepared


def prepare_resized(image: AnyArray, scheme: Scheme, size: int, *, training: bool = False) -> Float32Array:
    """Do what `prepare_image` does for an image whose longest side already is `size`, as a shard's.

    `native` means the image as stored here, because the original is no longer at hand.
    Raises ValueError when the longest side differs from `size`.
    """
    if max(image.shape[:2]) != size:
        raise ValueError(f"got an image of shape {image.shape}; its longest side must be {size}")
    return prepare_image(image, scheme, size, training=training)


def boxes_to_grid(boxes_xyxy: npt.ArrayLike, height: int, width: int, size: int) -> Float32Array:
    """Bring boxes from native pixels to the grid: int(coordinate * (size / longest side)), truncated.

    boxes_xyxy: (N, 4) x_min, y_min, x_max, y_max of any real dtype, inside the image. Returns float32 (N, 4);
    N may be 0. Raises ValueError for another shape.
    """
    boxes = np.asarray(boxes_xyxy, np.float64)
    if not boxes.size:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"got boxes of shape {boxes.shape}; (N, 4) is required")
    # One factor, then one product, as the reference does: dividing last can truncate to another integer.
    return np.trunc(boxes * Canvas(height, width, size).scale).astype(np.float32)


def mask_to_native(logits: Float32Array, canvas: Canvas) -> BoolArray:
    """Bring one low-resolution logit map back to the image.

    logits: float32 (size, size). Returns bool (H, W): the image's part of the grid, resized once bilinearly
    (pixel centres, align_corners False) and thresholded at 0, which is probability 0.5.
    """
    covered = logits[: canvas.resized_height, : canvas.resized_width]
    native_shape = canvas.width, canvas.height
    return np.asarray(cv2.resize(covered, native_shape, interpolation=cv2.INTER_LINEAR) > 0, np.bool_)


def masks_to_native(logits: Float32Array, canvas: Canvas) -> BoolArray:
    """Bring logits (N, size, size) back as bool (N, H, W); call `mask_to_native` for many large masks."""
    masks = np.zeros((len(logits), canvas.height, canvas.width), np.bool_)
    for mask, mask_logits in zip(masks, logits, strict=True):
        mask[:] = mask_to_native(mask_logits, canvas)
    return masks


def box_from_mask(mask: AnyArray, margin: int, limit: int | None = None) -> Float32Array | None:
    """Return a mask's bounding box, grown by `margin` pixels a side and clipped, or None for an empty mask.

    mask: (H, W), non-zero inside. limit: the largest coordinate; None clips to the mask's last column and
    row, the reference (LiteMedSAM's get_bbox256) takes the canvas size, one pixel further. Returns float32
    (4,) x_min, y_min, x_max, y_max as inclusive pixel indices of the mask's grid.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        return None
    x_limit, y_limit = (mask.shape[1] - 1, mask.shape[0] - 1) if limit is None else (limit, limit)
    return np.array(
        [
            max(columns[0] - margin, 0), max(rows[0] - margin, 0),
            min(columns[-1] + margin, x_limit), min(rows[-1] + margin, y_limit),
        ],
        np.float32,
    )  # fmt: skip


def _grey_or_rgb(image: AnyArray) -> AnyArray:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise ValueError(f"got an image of shape {image.shape}; (H, W), (H, W, 1) or (H, W, 3) is required, not empty")
    return image
