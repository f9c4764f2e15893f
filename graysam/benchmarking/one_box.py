"""The way of the challenge's winners: plain OpenVINO graphs, every slice encoded once, one box at a time.

DAFT (Pfefferle et al. 2024): encoder and decoder of EfficientViT-SAM-L0 as converted, at OpenVINO's default precision;
all slices that a box needs are encoded first and kept; every mask is resized to the native frame and written into a
volume of its object; the next slice's box comes from that volume as in LiteMedSAM. MedficientSAM (Le et al. 2024): L1
at 512 px in float32, otherwise alike here (its program is C++ and takes the next box from the native mask, without a
margin). The loop is written from what both do, without graysam's volume engine.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import Canvas, boxes_to_grid, prepare_image, resize_longest_side
from graysam.imaging.channels import Scheme
from graysam.inference.volume import BOX_MARGIN, Backend

Float32 = NDArray[np.float32]
UInt16 = NDArray[np.uint16]


def segment_one_by_one(
    image: NDArray[Any], boxes: NDArray[Any], backend: Backend, scheme: Scheme, *, size: int
) -> UInt16:
    """Segment uint8 (H,W), (H,W,3) with boxes (N,4), or (D,H,W) with boxes (N,6), z_max inclusive; uint16 labels.

    Logits coarser than the grid of `size` are brought to it first.
    """
    is_volume = boxes.shape[1] == 6
    slices = image if is_volume else image[None]
    boxes_3d = boxes if is_volume else np.insert(boxes, [2, 4], 0, axis=1)
    canvas = Canvas(slices.shape[1], slices.shape[2], size)
    given = boxes_to_grid(boxes_3d[:, [0, 1, 3, 4]], canvas.height, canvas.width, size)
    ranges = [(max(int(box[2]), 0), min(int(box[5]), len(slices) - 1)) for box in boxes_3d]
    needed = sorted({z for first, last in ranges for z in range(first, last + 1)})
    embeddings = {z: backend.encode(prepare_image(slices[z], scheme, size)[None])[0] for z in needed}
    segs = np.zeros(slices.shape[:3], np.uint16)
    for label, ((z_min, z_max), given_box) in enumerate(zip(ranges, given, strict=True), start=1):
        own = np.zeros(segs.shape, np.uint16)
        z_mid = int((z_max - z_min) / 2 + z_min)
        upwards = [(z, z - 1) for z in range(z_mid, z_max + 1)]
        downwards = [(z, z + 1) for z in range(z_mid - 1, z_min - 1, -1)]
        for z, before in upwards + downwards:
            box = None if z == z_mid else _box_of(own[before], size)
            logits, _ = backend.decode(embeddings[z], (given_box if box is None else box)[None])
            own[z][_native(logits[0], canvas) > 0] = label
        segs[own > 0] = label
    return segs if is_volume else segs[0]


def _box_of(labels: UInt16, size: int) -> Float32 | None:
    """Return the box around the last slice's labels, averaged by area on the grid; None where there are none."""
    rows, columns = np.nonzero(resize_longest_side(labels, size))
    if not len(rows):
        return None
    low = max(columns.min() - BOX_MARGIN, 0), max(rows.min() - BOX_MARGIN, 0)
    high = min(columns.max() + BOX_MARGIN, size), min(rows.max() + BOX_MARGIN, size)
    return np.array([*low, *high], np.float32)


def _native(logits: Float32, canvas: Canvas) -> Float32:
    if len(logits) != canvas.size:
        logits = np.asarray(cv2.resize(logits, (canvas.size, canvas.size), interpolation=cv2.INTER_LINEAR))
    valid_size = logits[: canvas.resized_height, : canvas.resized_width]
    return np.asarray(cv2.resize(valid_size, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR))
