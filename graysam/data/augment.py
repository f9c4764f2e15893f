"""Random changes in training: of prompt boxes, and of images, off by default as in the paper (section 3.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Box = NDArray[np.float32]  # (4,) x_min, y_min, x_max, y_max, inclusive pixel indices on the input grid
# Moves a box at random inside an image of (height, width) pixels; it stays at least one pixel wide and high.
Jitter = Callable[[Box, int, int, np.random.Generator], Box]
Image = NDArray[np.uint8]
Masks = list[NDArray[np.bool_]]
# Changes a uint8 (H,W) or (H,W,3) image and its objects' masks together; shapes stay, and no mask becomes empty.
Augmentation = Callable[[Image, Masks, np.random.Generator], tuple[Image, Masks]]


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror left-right and top-bottom, each with its own probability (the released code: 0.5 and 0.5)."""

    horizontal: float
    vertical: float

    def __call__(self, image: Image, masks: Masks, rng: np.random.Generator) -> tuple[Image, Masks]:
        draws = rng.random(2)
        axes = tuple(a for a, hit in ((1, draws[0] < self.horizontal), (0, draws[1] < self.vertical)) if hit)
        if not axes:
            return image, masks
        return np.ascontiguousarray(np.flip(image, axes)), [np.ascontiguousarray(np.flip(m, axes)) for m in masks]


@dataclass(frozen=True, kw_only=True)
class CropShift:
    """Zoom and shift the image inside its frame, so that an object's place in the image tells nothing.

    The zoom is drawn log-uniformly from [min_zoom, max_zoom], the shift uniformly up to `max_shift` of the frame's
    sides; what enters from outside is 0. The draw is dropped when any object would keep less than `min_visible`
    of its (zoomed) area.
    """

    probability: float
    min_zoom: float
    max_zoom: float
    max_shift: float
    min_visible: float

    def __call__(self, image: Image, masks: Masks, rng: np.random.Generator) -> tuple[Image, Masks]:
        hit = rng.random() < self.probability
        zoom = np.exp(rng.uniform(np.log(self.min_zoom), np.log(self.max_zoom)))
        height, width = image.shape[:2]
        shift = rng.uniform(-self.max_shift, self.max_shift, 2) * (width, height)
        if not hit:
            return image, masks
        centre = np.array([width - 1, height - 1]) / 2
        offset = centre + shift - zoom * centre
        matrix = np.array([[zoom, 0, offset[0]], [0, zoom, offset[1]]])
        stored = (mask.astype(np.uint8) for mask in masks)
        warped = [cv2.warpAffine(m, matrix, (width, height), flags=cv2.INTER_NEAREST).astype(bool) for m in stored]
        visible = (new.sum() / (old.sum() * zoom**2) for new, old in zip(warped, masks, strict=True))
        if any(fraction < self.min_visible for fraction in visible) or not all(mask.any() for mask in warped):
            return image, masks
        return np.asarray(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR), np.uint8), warped


@dataclass(frozen=True, kw_only=True)
class Tone:
    """Change brightness: a gamma, and sometimes the negative; masks and places stay.

    The gamma is drawn log-uniformly from [1/max_gamma, max_gamma], for each channel of a colour image its own within
    [1/max_tint, max_tint] of it. The negative comes with the probability `negative`.
    """

    max_gamma: float
    max_tint: float
    negative: float

    def __call__(self, image: Image, masks: Masks, rng: np.random.Generator) -> tuple[Image, Masks]:
        channels = 1 if image.ndim == 2 else image.shape[2]
        tints = np.exp(rng.uniform(-1, 1, channels) * np.log(self.max_tint)) if channels > 1 else np.ones(1)
        gammas = np.exp(rng.uniform(-1, 1) * np.log(self.max_gamma)) * tints
        levels = np.linspace(0, 1, 256)[:, None] ** gammas
        if rng.random() < self.negative:
            levels = 1 - levels
        table = np.rint(255 * levels).astype(np.uint8)
        return (table[:, 0][image] if image.ndim == 2 else np.asarray(cv2.LUT(image, table[None]), np.uint8)), masks


# ------------------------------------------------------------------ boxes
def _inside(box: NDArray[np.floating], height: int, width: int) -> Box:
    limits = np.array([width - 1, height - 1, width - 1, height - 1], dtype=np.float32)
    return np.clip(np.rint(box), 0, limits).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class NoJitter:
    """Leave the box as it is."""

    def __call__(self, box_xyxy: Box, height: int, width: int, rng: np.random.Generator) -> Box:
        return box_xyxy


@dataclass(frozen=True, kw_only=True)
class OutwardJitter:
    """Move each side outwards by 0..max_px pixels, uniformly, each on its own (the released code)."""

    max_px: int

    def __call__(self, box_xyxy: Box, height: int, width: int, rng: np.random.Generator) -> Box:
        outwards = rng.integers(0, self.max_px + 1, size=4) * np.array([-1, -1, 1, 1])
        return _inside(box_xyxy + outwards, height, width)


@dataclass(frozen=True, kw_only=True)
class PositionSizeJitter:
    """Change position and size (the paper, section 3.2, which gives no numbers).

    The centre moves by up to `shift` of the box's side, each side's length changes by up to `scale` of itself; a
    box keeps at least one pixel.
    """

    shift: float
    scale: float

    def __call__(self, box_xyxy: Box, height: int, width: int, rng: np.random.Generator) -> Box:
        low, high = box_xyxy[:2], box_xyxy[2:]
        side = high - low + 1  # inclusive indices: a one-pixel box has side 1
        centre = (low + high) / 2 + rng.uniform(-self.shift, self.shift, 2) * side
        half = (np.maximum(side * (1 + rng.uniform(-self.scale, self.scale, 2)), 1) - 1) / 2
        return _inside(np.concatenate([centre - half, centre + half]), height, width)


@dataclass(frozen=True, kw_only=True)
class SideJitter:
    """Move each side on its own, by a share of the box's width or height drawn uniformly.

    Attributes:
        outwards, inwards: maximum shares, `inwards` below 0.5.
    """

    outwards: float
    inwards: float

    def __call__(self, box_xyxy: Box, height: int, width: int, rng: np.random.Generator) -> Box:
        low, high = box_xyxy[:2], box_xyxy[2:]
        side = np.tile(high - low + 1, 2)  # inclusive indices: a one-pixel box has side 1
        shares = rng.uniform(-self.inwards, self.outwards, 4) * np.array([-1, -1, 1, 1])
        return _inside(box_xyxy + shares * side, height, width)
