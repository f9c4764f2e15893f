"""The loop of LiteMedSAM's inference script, which the challenge's winners kept: one box at a time, native masks.

It is written from what CVPR24_LiteMedSAM_infer.py does and shares no code with `graysam.inference`, with which it is
compared. In a volume each object is segmented from its middle slice outwards; the box on a slice comes from the mask of
the slice before.
"""

from functools import cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

MARGIN = 3  # grid pixels around the mask of the slice before
Array = NDArray[Any]


class Network(Protocol):
    """What the loop drives; `size` is the side of its grid in pixels."""

    size: int

    def embed(self, image: Array) -> Any:
        """Return the embedding of a native image, uint8 (H,W) or (H,W,3)."""

    def mask(self, embedding: Any, box: Array, native: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the native mask (H,W) of a box (4,) on the grid."""


def segment(image: Array, boxes: Array, network: Network, *, keep_embeddings: bool = False) -> Array:
    """Segment what boxes hold.

    Args:
        image: uint8 (H,W) or (H,W,3), or a volume (D,H,W).
        boxes: (N,4), or (N,6) for a volume, in native pixels, z_max inclusive.
        network: encoder and decoder.
        keep_embeddings: encode each slice of a volume once, as the winners do; the script encodes for each object.

    Returns:
        Labels (H,W) or (D,H,W), uint8 up to 255 boxes.
    """
    is_volume = boxes.shape[1] == 6
    slices = image if is_volume else image[None]
    boxes_3d = boxes if is_volume else np.insert(boxes, [2, 4], 0, axis=1)
    native = slices.shape[1], slices.shape[2]
    segs = np.zeros(slices.shape[:3], np.uint8 if len(boxes) < 256 else np.uint16)

    def embed(z: int) -> Any:
        return network.embed(slices[z])

    scale = network.size / max(native)
    embed = cache(embed) if keep_embeddings or not is_volume else embed
    for label, box in enumerate(boxes_3d, start=1):
        own = np.zeros_like(segs) if is_volume else segs
        first = np.array([int(value * scale) for value in box[[0, 1, 3, 4]]])
        z_min, z_max = max(int(box[2]), 0), min(int(box[5]), len(slices) - 1)
        z_mid = int((z_max - z_min) / 2 + z_min)
        upwards = [(z, z - 1) for z in range(z_mid, z_max + 1)]
        downwards = [(z, z + 1) for z in range(z_mid - 1, z_min - 1, -1)]
        for z, before in upwards + downwards:
            prompt = first if z == z_mid else _box_around(own[before], network.size)
            own[z][network.mask(embed(z), first if prompt is None else prompt, native)] = label
        if is_volume:
            segs[own > 0] = label
    return segs if is_volume else segs[0]


def resize(image: Array, size: int) -> Array:
    """Resize an image to the longest side `size`, by area interpolation."""
    scale = size / max(image.shape[:2])
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _box_around(labels: Array, size: int) -> Array | None:
    """Return the box around the labels on the grid, with a margin; None where there are none."""
    rows, columns = np.nonzero(resize(labels, size))
    if not len(rows):
        return None
    low = columns.min() - MARGIN, rows.min() - MARGIN
    high = columns.max() + MARGIN, rows.max() + MARGIN
    return np.array([max(0, low[0]), max(0, low[1]), min(size, high[0]), min(size, high[1])])
