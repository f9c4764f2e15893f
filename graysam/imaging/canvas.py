"""Images and boxes on the network's square canvas; `graysam.imaging.masks` is the inverse.

The rules are those that LiteMedSAM was trained with: resize the longest side to `size` by area interpolation, then
normalize the whole resized image by its minimum and maximum, then pad with zeros at the bottom and right.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from graysam.imaging.channels import Scheme

AnyArray = npt.NDArray[Any]
UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

_SLAB_VALUES = 1 << 18  # converted to floats at a time


@dataclass(frozen=True)
class Canvas:
    """Geometry of one image of (height, width) native pixels on a square grid of `size` pixels.

    `aspect` is the height of a native pixel in its widths; pixels of the grid are square.
    """

    height: int
    width: int
    size: int
    aspect: float = 1.0

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.size) < 1:
            raise ValueError(f"got an image of {self.height}x{self.width} on a grid of {self.size}; all must be >= 1")

    @property
    def scale(self) -> float:
        """Grid pixels per width of a native pixel."""
        return self.size / max(self.height * self.aspect, self.width)

    @property
    def resized_height(self) -> int:
        """Rows of the grid that the image covers, at least 1."""
        return max(int(self.height * self.aspect * self.scale + 0.5), 1)

    @property
    def resized_width(self) -> int:
        """Columns of the grid that the image covers, at least 1."""
        return max(int(self.width * self.scale + 0.5), 1)


def resize_longest_side(image: AnyArray, size: int, aspect: float = 1.0) -> AnyArray:
    """Resize an image so that its longest side becomes `size`, by area interpolation.

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16.
        size: px.
        aspect: see `Canvas`.

    Returns:
        The same dtype; the sides are int(side * scale + 0.5), at least 1.

    Raises:
        ValueError: an empty image, or another dtype (OpenCV wraps int64 silently).
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"got an image of dtype {image.dtype}; uint8 or uint16 is required")
    canvas = Canvas(image.shape[0], image.shape[1], size, aspect)
    sides = canvas.resized_width, canvas.resized_height
    return np.asarray(cv2.resize(image, sides, interpolation=cv2.INTER_AREA))


def resize_labels(labels: AnyArray, size: int) -> AnyArray:
    """Resize labels, or a mask, as `resize_longest_side` does their image, by nearest neighbour.

    Args:
        labels: (H, W), bool or integers from 0 to 65535.
        size: px.

    Returns:
        bool or uint16; labels may vanish where the image is reduced.
    """
    canvas = Canvas(labels.shape[0], labels.shape[1], size)
    stored = labels.view(np.uint8) if labels.dtype == np.bool_ else labels.astype(np.uint16)
    sides = canvas.resized_width, canvas.resized_height
    resized = cv2.resize(stored, sides, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized.view(np.bool_) if labels.dtype == np.bool_ else resized)


def normalize(image: UInt8Array, out: Float32Array | None = None) -> Float32Array:
    """Scale uint8 of any shape to float32 [0, 1], in `out`, by the minimum and maximum over all pixels and channels.

    A constant image gives 0.
    """
    low, high = int(image.min()), int(image.max())
    normalized = np.subtract(image, np.float32(low), out=out)
    normalized /= max(high - low, 1e-8)
    return normalized


def pad(image: AnyArray, size: int) -> AnyArray:
    """Pad (H, W) or (H, W, C) with zeros to the bottom and right, to (size, size) or (size, size, C)."""
    padded = np.zeros((size, size, *image.shape[2:]), image.dtype)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def to_uint8(image: AnyArray) -> UInt8Array:
    """Convert an image or volume of any real dtype to 8 bits.

    uint8 is returned unchanged; other dtypes are scaled by minimum and maximum to 0..255 and rounded, a constant array
    to 0.

    Raises:
        ValueError: a complex, text or object array, or values that are not finite.
    """
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    if image.dtype.kind not in "buif":
        raise ValueError(f"got an image of dtype {image.dtype}; real numbers are required")
    if not image.size:
        return np.zeros(image.shape, np.uint8)
    # float32 represents 16-bit integers exactly and halves the memory.
    dtype = np.result_type(image.dtype, np.float32).type
    low = dtype(image.min())
    with np.errstate(over="ignore", invalid="ignore"):
        value_range = dtype(image.max()) - low
    if not np.isfinite(value_range):
        raise ValueError("the image holds NaN, infinite or too large values; finite numbers are required")
    result = np.empty(image.shape, np.uint8)
    rows = max(_SLAB_VALUES * len(image) // image.size, 1)
    for top in range(0, len(image), rows):  # a whole volume in floats would not fit
        scaled = image[top : top + rows].astype(dtype)
        scaled -= low
        if value_range > 0:
            scaled /= value_range
        scaled *= 255
        result[top : top + rows] = np.rint(scaled, out=scaled)
    return result


def content_hash(image: AnyArray) -> str:
    """Return the identity of an image, by which shards and caches recognise it under any name.

    Equal dtype, shape and values give equal hashes: 32 hexadecimal digits of a SHA-256.
    """
    pixels = np.ascontiguousarray(image)
    digest = hashlib.sha256(f"{pixels.dtype.str} {pixels.shape} ".encode())
    digest.update(pixels.data)
    return digest.hexdigest()[:32]


def prepare_image(
    image: AnyArray, scheme: Scheme, size: int, *, training: bool = False, aspect: float = 1.0
) -> Float32Array:
    """Convert an image to the network's input.

    The scheme decides where its channels are built. With `native` and `resized` the normalization covers the image and
    the padding is zero; with `padded` scheme and normalization include the padding, as in the released code's training.

    Args:
        image: (H, W), (H, W, 1) or RGB (H, W, 3); dtypes other than uint8 are converted by `to_uint8`.
        scheme: makes the three channels.
        size: side of the canvas, px.
        training: use the scheme's place for training. The image is a shard's, or a part of one, and serves as `native`.
        aspect: see `Canvas`.

    Returns:
        Contiguous float32 (3, size, size).

    Raises:
        ValueError: an empty image, or another shape.
    """
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise ValueError(f"got an image of shape {image.shape}; (H, W), (H, W, 1) or (H, W, 3) is required, not empty")
    image_u8 = to_uint8(image)
    stage = scheme.built_on_training if training else scheme.built_on
    if stage == "native":
        image_u8 = scheme(image_u8)
    image_u8 = np.asarray(resize_longest_side(image_u8, size, aspect), np.uint8)
    if stage == "resized":
        image_u8 = scheme(image_u8)
    elif stage == "padded":
        image_u8 = scheme(np.asarray(pad(image_u8, size), np.uint8))
    height, width = image_u8.shape[:2]
    prepared = np.zeros((3, size, size), np.float32)
    # Channels are moved first while they are bytes: moving floats takes longer than building the channels.
    normalize(np.stack(cv2.split(image_u8)), out=prepared[:, :height, :width])
    return prepared


def boxes_to_grid(boxes_xyxy: npt.ArrayLike, height: int, width: int, size: int, aspect: float = 1.0) -> Float32Array:
    """Scale boxes from native pixels to the grid: coordinate * (size / longest side), truncated.

    Args:
        boxes_xyxy: (N, 4) x_min, y_min, x_max, y_max of any real dtype; N may be 0.
        height: of the image, px.
        width: of the image, px.
        size: side of the canvas, px.
        aspect: see `Canvas`.

    Returns:
        float32 (N, 4).
    """
    boxes = np.asarray(boxes_xyxy, np.float64)
    # One factor, then one product, as in the reference: dividing last can truncate to another integer.
    scale = Canvas(height, width, size, aspect).scale
    return np.trunc(boxes * (scale, scale * aspect, scale, scale * aspect)).astype(np.float32)
