"""Views: windows of an image that the network sees in place of the whole, and maps between them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from graysam.imaging.canvas import Canvas, boxes_to_grid
from graysam.imaging.masks import native_blocks
from graysam.imaging.prompts import Bounds

AnyArray = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """A window of an image on the network's grid, where the rules of `imaging.canvas` hold as for a whole image.

    The window lies within the image, and the network sees nothing outside of it.

    Attributes:
        left, top: the first native pixel.
        right, bottom: one past the last native pixel.
        size: side of the grid, px.
        aspect: height of a native pixel in its widths.
    """

    left: int
    top: int
    right: int
    bottom: int
    size: int
    aspect: float = 1.0

    @cached_property
    def canvas(self) -> Canvas:
        """Geometry of the window as an image of its own."""
        return Canvas(self.bottom - self.top, self.right - self.left, self.size, self.aspect)

    def crop(self, image: AnyArray) -> AnyArray:
        """Return the window of an image (H, W) or (H, W, C), without a copy."""
        return image[self.top : self.bottom, self.left : self.right]

    def boxes_to_grid(self, boxes_xyxy: npt.ArrayLike) -> Float32Array:
        """Scale boxes (N, 4) from pixels of the image to the grid, truncated, as networks are prompted."""
        boxes = np.asarray(boxes_xyxy, np.float64) - (self.left, self.top, self.left, self.top)
        return boxes_to_grid(boxes, self.canvas.height, self.canvas.width, self.size, self.aspect)

    def to_grid(self, points_xy: npt.ArrayLike) -> Float64Array:
        """Map points (N, 2), indices of pixels of the image, to the grid, whose pixels also have integer centres."""
        return np.asarray((np.asarray(points_xy, np.float64) - (self.left, self.top) + 0.5) * self._scale - 0.5)

    def to_native(self, points_xy: npt.ArrayLike) -> Float64Array:
        """Map points (N, 2) from the grid to the image; the inverse of `to_grid`."""
        return np.asarray((np.asarray(points_xy, np.float64) + 0.5) / self._scale - 0.5 + (self.left, self.top))

    def native_blocks(
        self, logits: Float32Array, bounds: Bounds | None
    ) -> Iterator[tuple[slice, slice, npt.NDArray[np.bool_]]]:
        """Yield the mask of logits on the grid in blocks, as rows and columns of the image and mask."""
        for rows, columns, mask in native_blocks(logits, self.canvas, bounds):
            yield (
                slice(rows.start + self.top, rows.stop + self.top),
                slice(columns.start + self.left, columns.stop + self.left),
                mask,
            )

    def native_logits(self, logits: Float32Array) -> Float32Array:
        """Return logits on the grid at the pixels of the window, float32 (h, w); the mask is where they are above 0."""
        canvas = self.canvas
        valid = logits[: canvas.resized_height, : canvas.resized_width]
        return np.asarray(cv2.resize(valid, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR))

    def resample(self, logits: Float32Array, view: "View") -> Float32Array:
        """Return what this view's logits are where another view's grid covers the image, interpolated bilinearly.

        Args:
            logits: float32 on this view's grid.
            view: another one of the same image. Where it reaches out of this one, the logits at the edge hold.

        Returns:
            float32 (h, w), the rows and columns of the other grid that its window covers.
        """
        canvas, other = self.canvas, view.canvas
        places = []
        for axis, (valid, length) in enumerate(
            ((other.resized_width, canvas.resized_width), (other.resized_height, canvas.resized_height))
        ):
            points = np.zeros((valid, 2))
            points[:, axis] = np.arange(valid)
            position = self.to_grid(view.to_native(points))[:, axis].clip(0, length - 1)
            lower = np.minimum(position.astype(np.intp), max(length - 2, 0))
            places.append((lower, np.minimum(lower + 1, length - 1), (position - lower).astype(np.float32)))
        (left, right, column), (above, below, row) = places
        rows = logits[above] + (logits[below] - logits[above]) * row[:, None]
        return np.asarray(rows[:, left] + (rows[:, right] - rows[:, left]) * column)

    @cached_property
    def _scale(self) -> Float64Array:
        """Grid pixels per native pixel in x and y, which differ as the resized sides are rounded."""
        canvas = self.canvas
        return np.array([canvas.resized_width / canvas.width, canvas.resized_height / canvas.height])


def full_view(height: int, width: int, size: int, aspect: float = 1.0) -> View:
    """Return the view of a whole image."""
    return View(0, 0, width, height, size, aspect)
