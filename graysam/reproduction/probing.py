"""How a model answers to boxes that are not tight, and whether it knows how good its masks are. Needs no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graysam.data.jitter import Box
from graysam.imaging.canvas import Canvas, boxes_to_grid, prepare_image, to_uint8
from graysam.imaging.channels import Scheme
from graysam.imaging.masks import mask_to_native
from graysam.imaging.prompts import tight_box
from graysam.inference.volume import BOX_BATCH, Backend
from graysam.io.cases import Case
from graysam.metrics.dice import dice

# Name of a change -> its amounts, as shares of the box's sides.
CHANGES: Mapping[str, tuple[float, ...]] = {
    "shifted": (0.05, 0.1, 0.2, 0.3),
    "enlarged": (0.05, 0.1, 0.2, 0.4),
    "shrunk": (0.05, 0.1, 0.2, 0.3),
}
DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # that a box is shifted in: left, right, up, down


@dataclass(frozen=True)
class ObjectProbe:
    """What one object's boxes gave, on its image or on the slice of a volume where it is largest.

    area_share: of the image's pixels; predicted_iou: the model's own, for the tight box; iou and dsc: that box's mask
    against the truth; changed: change -> DSC for each of its amounts, of a shifted box the mean over `DIRECTIONS`.
    """

    case: str
    modality: str
    label: int
    area_share: float
    predicted_iou: float
    iou: float
    dsc: float
    changed: Mapping[str, tuple[float, ...]]


def shifted(box: Box, amount: float, direction: tuple[int, int]) -> NDArray[np.float64]:
    """Move a box x_min,y_min,x_max,y_max by a share of its sides."""
    sides = np.array([box[2] - box[0] + 1, box[3] - box[1] + 1], float)
    return np.asarray(box, float) + np.tile(amount * sides * direction, 2)


def scaled(box: Box, amount: float) -> NDArray[np.float64]:
    """Make a box's sides longer by a share of them, or shorter by a negative one; its middle stays."""
    sides = np.array([box[2] - box[0] + 1, box[3] - box[1] + 1], float)
    half = amount * sides / 2
    return np.asarray(box, float) + np.concatenate([-half, half])


def boxes_of(box: Box, height: int, width: int) -> NDArray[np.float64]:
    """Return the tight box and all its changes, (1 + 4 shifts + enlarged + shrunk, 4), clipped to the image.

    The order is that of `CHANGES`, a shift's four directions next to each other.
    """
    found = [np.asarray(box, float)]
    for change, amounts in CHANGES.items():
        for amount in amounts:
            if change == "shifted":
                found += [shifted(box, amount, direction) for direction in DIRECTIONS]
            else:
                found.append(scaled(box, amount if change == "enlarged" else -amount))
    limits = np.array([width - 1, height - 1, width - 1, height - 1])
    return np.clip(np.rint(found), 0, limits)


def probe_case(
    case: Case, gts: NDArray[np.integer], backend: Backend, scheme: Scheme, size: int
) -> Iterator[ObjectProbe]:
    """Probe every object of a case.

    Args:
        case: as `read_input_case` gives it; its boxes are not used, tight ones are made of the masks.
        gts: integers of the image's grid (H,W) or (D,H,W); 0 is background. No object yields nothing.

    Raises:
        ValueError: masks of another grid than the image.
    """
    image = to_uint8(case.image.pixels)
    if gts.shape != case.image.grid:
        raise ValueError(
            f"{case.image.name}: masks have shape {gts.shape}, the image {image.shape}; required: the same grid"
        )
    labels = [int(label) for label in np.unique(gts) if label]
    if not case.image.is_volume:
        yield from _probe_slice(case, image, gts, labels, backend, scheme, size)
        return
    largest: dict[int, list[int]] = {}
    for label in labels:
        largest.setdefault(int((gts == label).sum(axis=(1, 2)).argmax()), []).append(label)
    for z, here in largest.items():
        yield from _probe_slice(case, image[z], gts[z], here, backend, scheme, size)


def _probe_slice(
    case: Case,
    image: NDArray[np.uint8],
    gts: NDArray[np.integer],
    labels: list[int],
    backend: Backend,
    scheme: Scheme,
    size: int,
) -> Iterator[ObjectProbe]:
    if not labels:
        return
    height, width = gts.shape
    canvas = Canvas(height, width, size)
    embedding = backend.encode(prepare_image(image, scheme, size)[None])[0].copy()
    for label in labels:
        truth = gts == label
        boxes = boxes_to_grid(boxes_of(tight_box(truth), height, width), height, width, size)
        scores, predicted_iou, iou = [], 0.0, 0.0
        for start in range(0, len(boxes), BOX_BATCH):
            logits, ious = backend.decode(embedding, boxes[start : start + BOX_BATCH])
            for place in range(len(ious)):
                mask = mask_to_native(logits[place], canvas)
                scores.append(dice(truth, mask))
                if start + place == 0:
                    predicted_iou = float(ious[0])
                    iou = float((truth & mask).sum() / (truth | mask).sum())
        yield ObjectProbe(
            case=case.image.name,
            modality=case.image.modality,
            label=label,
            area_share=float(truth.mean()),
            predicted_iou=predicted_iou,
            iou=iou,
            dsc=scores[0],
            changed=_by_change(scores[1:]),
        )


def _by_change(scores: list[float]) -> dict[str, tuple[float, ...]]:
    """Sort the scores of `boxes_of`'s changed boxes by change and amount."""
    found, rest = {}, iter(scores)
    for change, amounts in CHANGES.items():
        each = len(DIRECTIONS) if change == "shifted" else 1
        found[change] = tuple(float(np.mean([next(rest) for _ in range(each)])) for _ in amounts)
    return found
