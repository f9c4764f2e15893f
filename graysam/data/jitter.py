"""Random jitter of training's prompt boxes, on the 256 grid."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Box = NDArray[np.float32]  # (4,) x_min, y_min, x_max, y_max, inclusive pixel indices on the input grid


# Moves a box at random inside an image of (height, width) pixels; it stays at least one pixel wide and high.
Jitter = Callable[[Box, int, int, np.random.Generator], Box]


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
