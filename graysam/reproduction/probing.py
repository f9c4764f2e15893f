"""Probe a model: DSC of its masks for boxes that are not tight, and its predicted beside the real IoU."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import Canvas, boxes_to_grid, prepare_image, to_uint8
from graysam.imaging.masks import mask_to_native
from graysam.imaging.prompts import mask_bounds
from graysam.inference.backend import BOX_BATCH
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


@dataclass(frozen=True)
class ObjectProbe:
    """Results of one object, in its image or in the slice of a volume where it is largest.

    Attributes:
        case, modality, label: of the object.
        area_share: of the image's pixels.
        predicted_iou: by the model, for the tight box.
        iou, dsc: of the tight box's mask.
        changed: change -> DSC for each of its amounts; for a shifted box the mean over four directions.
    """

    case: str
    modality: str
    label: int
    area_share: float
    predicted_iou: float
    iou: float
    dsc: float
    changed: Mapping[str, tuple[float, ...]]


def changed_boxes(box: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Return the tight box (4,) and its changes in the order of `CHANGES`, within the image: whole numbers (N,4)."""
    sides = np.tile([box[2] - box[0] + 1, box[3] - box[1] + 1], 2)
    boxes = [box]
    for change, amounts in CHANGES.items():
        boxes += [box + amount * sides * direction for amount in amounts for direction in DIRECTIONS[change]]
    return np.clip(np.rint(boxes), 0, np.array([width, height, width, height]) - 1)


def probe_image(image: Image, gts: NDArray[np.integer], predictor: Predictor) -> Iterator[ObjectProbe]:
    """Probe every object of an image or a volume.

    Args:
        image: the image.
        gts: integer labels of its grid; 0 is background.
        predictor: the model.

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
            yield _probe_object(image, label, truth == label, embedding, predictor)


def _probe_object(
    image: Image, label: int, truth: NDArray[np.bool_], embedding: NDArray[np.float32], predictor: Predictor
) -> ObjectProbe:
    height, width = truth.shape
    canvas = Canvas(height, width, predictor.size)
    boxes = changed_boxes(np.array(mask_bounds(truth), np.float64), height, width)
    grid_boxes = boxes_to_grid(boxes, height, width, predictor.size)
    scores: list[float] = []
    for start in range(0, len(boxes), BOX_BATCH):
        logits, ious = predictor.backend.decode(embedding, grid_boxes[start : start + BOX_BATCH])
        if start == 0:
            predicted_iou, tight = float(ious[0]), mask_to_native(logits[0], canvas)
        scores += [dice(truth, mask_to_native(one, canvas)) for one in logits]
    rest = iter(scores[1:])
    changed = {
        change: tuple(float(np.mean([next(rest) for _ in DIRECTIONS[change]])) for _ in amounts)
        for change, amounts in CHANGES.items()
    }
    iou = float((truth & tight).sum() / (truth | tight).sum())
    area_share = float(truth.mean())
    return ObjectProbe(image.name, image.modality, label, area_share, predicted_iou, iou, scores[0], changed)
