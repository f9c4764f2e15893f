"""The interface of segmentation networks: two calls, `encode` and `decode`, with NumPy arrays at the border."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]

BOX_BATCH = 8  # boxes decoded in one call; more at once leave the cache


class Backend(Protocol):
    """A segmentation network with NumPy at the border; `size` is the side of its square input in pixels."""

    def encode(self, images: Float32Array) -> FloatArray:
        """Embed images.

        Args:
            images: float32 (B, 3, size, size) in [0, 1].

        Returns:
            (B, ...) of any float dtype and shape; may be overwritten by the next call.
        """

    def decode(
        self, embedding: FloatArray, grid_boxes: Float32Array, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """Segment one image.

        Args:
            embedding: one that `encode` returned, or a copy of it.
            grid_boxes: (N, 4) on the grid.
            valid_size: rows and columns of the grid that the image covers; None for all.

        Returns:
            Logits float32 (N, size, size), which may end after `valid_size`, and predicted IoU float32 (N,). Both may
            be overwritten by the next call.
        """


def decode_all(
    backend: Backend, embedding: FloatArray, grid_boxes: Float32Array, valid_size: tuple[int, int] | None = None
) -> Iterator[tuple[Float32Array, float]]:
    """Yield each box's logits, which hold until the next ones are asked for, and predicted IoU, in order.

    The arguments are those of `Backend.decode`, which gets at most BOX_BATCH boxes in one call, and none for no boxes.
    """
    for start in range(0, len(grid_boxes), BOX_BATCH):
        logits, iou = backend.decode(embedding, grid_boxes[start : start + BOX_BATCH], valid_size)
        yield from zip(logits, iou.tolist(), strict=True)
