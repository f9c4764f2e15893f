"""Probe a model: DSC of its masks for boxes that are not tight, and its predicted beside the real IoU."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import Canvas, boxes_to_grid, prepare_image, to_uint8
from graysam.imaging.masks import mask_to_native
from graysam.imaging.prompts import mask_bounds
from graysam.inference.backend import decode_all
from graysam.inference.predictor import Predictor
from graysam.io.image import Image
from graysam.metrics.challenge import dice

# Change of a box -> its amounts, in units of the box's sides.
CHANGES: Mapping[str, tuple[float, ...]] = {
    "shifted": (0.05, 0.1, 0.2, 0.3),
    "enlarged": (0.05, 0.1, 0.2, 0.4),
    "shrunk": (0.05, 0.1, 0.2, 0.3),
}
# Displacement of x_min, y_min, x_max, y_max in units of a change's amount; one box for each.
DIRECTIONS = {
    "shifted": ((-1, 0, -1, 0), (1, 0, 1, 0), (0, -1, 0, -1), (0, 1, 0, 1)),
    "enlarged": ((-0.5, -0.5, 0.5, 0.5),),
    "shrunk": ((0.5, 0.5, -0.5, -0.5),),
}


def changed_boxes(box: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Return the tight box (4,) and its changes in the order of `CHANGES`, within the image: whole numbers (N,4)."""
    sides = np.tile([box[2] - box[0] + 1, box[3] - box[1] + 1], 2)
    boxes = [box]
    for change, amounts in CHANGES.items():
        boxes += [box + amount * sides * direction for amount in amounts for direction in DIRECTIONS[change]]
    return np.clip(np.rint(boxes), 0, np.array([width, height, width, height]) - 1)


def probe_image(image: Image, gts: NDArray[np.integer], predictor: Predictor) -> Iterator[dict[str, Any]]:
    """Probe every object of an image or a volume, in the slice of a volume where it is largest.

    Args:
        image, gts: the image and integer labels of its grid; 0 is background.
        predictor: the model.

    Yields:
        `case`, `modality` and `label` of an object; `area_share` of the image's pixels; `predicted_iou`, `iou` and
        `dsc` of the mask for the tight box; `changed`: change -> DSC for each of its amounts, for a shifted box the
        mean over four directions.

    Raises:
        ValueError: labels of another grid.
    """
    if gts.shape != image.grid:
        raise ValueError(f"{image.name}: gts have shape {gts.shape}, the image {image.grid}; required: the same grid")
    pixels = to_uint8(image.pixels)
    places: dict[int | None, list[int]] = {}  # slice, or None for a 2D image -> labels
    for label in np.unique(gts[gts > 0]).tolist():
        z = int((gts == label).sum(axis=(1, 2)).argmax()) if image.is_volume else None
        places.setdefault(z, []).append(label)
    for z, labels in places.items():
        plane, truth = (pixels, gts) if z is None else (pixels[z], gts[z])
        embedding = predictor.backend.encode(prepare_image(plane, predictor.scheme, predictor.size)[None])[0].copy()
        for label in labels:
            case = {"case": image.name, "modality": image.modality, "label": label}
            yield {**case, **_probe_object(truth == label, embedding, predictor)}


def _probe_object(truth: NDArray[np.bool_], embedding: NDArray[np.float32], predictor: Predictor) -> dict[str, Any]:
    height, width = truth.shape
    canvas = Canvas(height, width, predictor.size)
    boxes = changed_boxes(np.array(mask_bounds(truth), np.float64), height, width)
    decoded = decode_all(predictor.backend, embedding, boxes_to_grid(boxes, height, width, predictor.size))
    masks, ious = zip(*((mask_to_native(logits, canvas), iou) for logits, iou in decoded), strict=True)
    tight, *scores = (dice(truth, mask) for mask in masks)
    rest = iter(scores)
    changed = {
        change: [float(np.mean([next(rest) for _ in DIRECTIONS[change]])) for _ in amounts]
        for change, amounts in CHANGES.items()
    }
    return {
        "area_share": float(truth.mean()),
        "predicted_iou": float(ious[0]),
        "iou": float((truth & masks[0]).sum() / (truth | masks[0]).sum()),
        "dsc": tight,
        "changed": changed,
    }
