"""Segment images and volumes slice by slice over a backend's two calls, `encode` and `decode`.

Every object starts at its middle slice with its given box, then goes upwards and downwards, prompted at each slice by
the box around its own mask on the slice before. Source: LiteMedSAM's CVPR24_LiteMedSAM_infer.py, except that every
object follows its own mask and every slice is encoded once; `propagation="litemedsam"` keeps its box rule.
"""

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from graysam.imaging.canvas import Canvas, boxes_to_grid, prepare_image, resize_longest_side, to_uint8
from graysam.imaging.channels import Scheme
from graysam.imaging.masks import box_from_mask, grow_bounds, mask_to_native, native_blocks, positive_bounds
from graysam.imaging.prompts import Bounds, fit_boxes, is_volume
from graysam.inference.backend import Backend, Float32Array, FloatArray, decode_all
from graysam.io.image import Image
from graysam.system.terminal import format_ranges

AnyArray = npt.NDArray[Any]
Propagation = Literal["own", "litemedsam"]

EMBEDDING_BYTES = 512 << 20  # kept at most: 128 slices in float32, 256 in float16
BOX_MARGIN = 3  # grid pixels a side around the previous slice's mask, as LiteMedSAM


@dataclass(frozen=True, eq=False)
class PromptMask:
    """What one prompt segmented.

    Attributes:
        mask: bool (H, W) or (D, H, W), the image's grid.
        logits: float32 (h, w), or (K, h, w) for the K slices of a volume's box; on the network's grid, where the image
            covers it. Positive is inside.
        iou: predicted IoU, float32: a scalar, or (K,).
        slices: of the volume that were visited; range(0, 1) for an image.
    """

    mask: npt.NDArray[np.bool_]
    logits: Float32Array
    iou: Float32Array
    slices: range


class Segmentation:
    """One image or volume and its boxes on the way through a backend; to be used once.

    Every slice is encoded once however many objects share it: one sweep goes up through all objects, one down. A slice
    that both sweeps need keeps its embedding, as the backend gave it, within EMBEDDING_BYTES; past that it is encoded
    again.

    Args:
        image, boxes, z_max_inclusive: see `Predictor.predict`. No boxes give empty masks, and nothing is encoded.
        backend: the network.
        scheme: the channels that it takes.
        propagation: where the next slice's box comes from, always grown by 3 grid pixels a side; an empty mask falls
            back to the given box.
            `own`: the object's low-resolution mask, clipped to the pixels of the given box, which surrounds the object
            in every slice, so that prompts cannot drift away. A mask wholly outside counts as empty.
            `litemedsam`: the native mask filled with its label, resized by area and clipped to `size`, as LiteMedSAM's
            script does it; depends on the label's number. Kept to reproduce the published baseline.
        size: side of the network's square input in pixels.

    Raises:
        ValueError: arrays that do not fit each other, boxes that `imaging.prompts` refuses, or options out of range.
    """

    def __init__(
        self,
        image: AnyArray | Image,
        boxes: npt.ArrayLike,
        backend: Backend,
        scheme: Scheme,
        *,
        propagation: Propagation = "own",
        z_max_inclusive: bool = True,
        size: int = 256,
    ) -> None:
        if propagation not in get_args(Propagation):
            raise ValueError(f"propagation is {propagation!r}; required: own or litemedsam")
        given = np.asarray(boxes)
        if not isinstance(image, Image):
            pixels = np.asarray(image)
            image = Image(pixels, is_volume=is_volume(pixels, given))
        self.name, self.is_volume, pixels = image.name, image.is_volume, image.pixels
        fitted, notes = fit_boxes(given, pixels.shape, volume=self.is_volume, z_max_inclusive=z_max_inclusive)
        self._warn(*image.notes, *notes)
        self._slices = to_uint8(pixels) if self.is_volume else to_uint8(pixels)[None]
        self.shape: tuple[int, int, int] = self._slices.shape[:3]
        self.canvas = Canvas(*self.shape[1:], size)
        self.backend, self.scheme, self.propagation = backend, scheme, propagation
        self.objects = _plan_objects(fitted, self.canvas, z_max_inclusive)

    def labels(self) -> npt.NDArray[np.uint16]:
        """Return labels uint16 (H, W) or (D, H, W): 0 is background, k is box k; later boxes overwrite earlier ones.

        A warning names the labels without a pixel, and why.
        """
        labels = np.zeros(self.shape, np.uint16)
        painted: dict[int, list[tuple[int, slice, slice]]] = defaultdict(list)
        for item, z, logits, _, bounds in self.visits():
            for rows, columns, mask in native_blocks(logits, self.canvas, bounds):
                # The largest label is that of the last box, regardless of the order of the sweeps.
                block = labels[z, rows, columns]
                np.maximum(block, mask * np.uint16(item.label), out=block)
                if mask.any():
                    painted[item.label].append((z, rows, columns))
        last = len(self.objects)  # whose pixels nothing overwrites
        covered = {
            label
            for label, blocks in painted.items()
            if label < last and not any((labels[block] == label).any() for block in blocks)
        }
        self._warn_of_missing(painted.keys(), covered)
        return labels if self.is_volume else labels[0]

    def masks(self) -> list[PromptMask]:
        """Segment into one mask a box, which may overlap. A warning names those that are empty, and why."""
        grid = self.canvas.resized_height, self.canvas.resized_width
        found = []
        for item in self.objects:
            slices = range(item.z_min, item.z_max + 1)
            empty = np.empty((len(slices), *grid), np.float32), np.empty(len(slices), np.float32)
            found.append(PromptMask(np.zeros(self.shape, np.bool_), *empty, slices))
        for item, z, logits, iou, bounds in self.visits():
            prompt = found[item.label - 1]
            for rows, columns, mask in native_blocks(logits, self.canvas, bounds):
                prompt.mask[z, rows, columns] = mask
            place = z - item.z_min
            prompt.logits[place], prompt.iou[place] = logits[: grid[0], : grid[1]], iou
        self._warn_of_missing({label for label, prompt in enumerate(found, start=1) if prompt.mask.any()})
        return found if self.is_volume else [PromptMask(m.mask[0], m.logits[0], m.iou[0], m.slices) for m in found]

    def _warn(self, *notes: str) -> None:
        for note in notes:
            warnings.warn(f"{self.name}: {note}" if self.name else note, stacklevel=4)

    def _warn_of_missing(self, painted: Collection[int], covered: Collection[int] = ()) -> None:
        """Warn in one line of the labels that have no pixel: all but the painted ones, and the covered ones."""
        reasons: dict[str, list[int]] = defaultdict(list)
        for item in self.objects:
            if item.label in covered:
                reasons["overwritten by later boxes"].append(item.label)
            elif item.label not in painted:
                small = (item.given_box[2:] - item.given_box[:2]).min() < 1
                grid = f"smaller than a pixel of the {self.canvas.size}-pixel grid, so crop the image"
                reasons[grid if small else "empty mask"].append(item.label)
        if missing := sum(map(len, reasons.values())):
            parts = [f"labels {format_ranges(labels)} ({reason})" for reason, labels in reasons.items()]
            self._warn(f"{missing} of {len(self.objects)} boxes without a pixel in the mask: {', '.join(parts)}")

    def visits(self) -> Iterator[tuple["_Object", int, Float32Array, float, Bounds | None]]:
        """Prompt every object on each of its slices: one sweep up, one down.

        Yields:
            The object, the slice, its logits, which hold until the next visit, predicted IoU, and the bounds of the
            positive logits where the image lies.
        """
        up: dict[int, list[_Object]] = defaultdict(list)
        down: dict[int, list[_Object]] = defaultdict(list)
        for item in self.objects:
            for z in range(item.z_min, item.z_max + 1):
                (up if z >= item.z_mid else down)[z].append(item)
        valid_size = self.canvas.resized_height, self.canvas.resized_width
        kept: dict[int, FloatArray] = {}
        budget_bytes = EMBEDDING_BYTES
        for z, present in (*sorted(up.items()), *sorted(down.items(), reverse=True)):
            if z in kept:
                embedding = kept.pop(z)
            else:
                image = prepare_image(self._slices[z], self.scheme, self.canvas.size)
                embedding = self.backend.encode(image[None])[0]
                if z in up and z in down and budget_bytes >= embedding.nbytes:
                    budget_bytes -= embedding.nbytes
                    kept[z] = embedding.copy()  # a backend may use its buffer again
            prompts = np.stack([item.prompt(z) for item in present])
            decoded = decode_all(self.backend, embedding, prompts, valid_size)
            for item, (logits, iou) in zip(present, decoded, strict=True):
                bounds = positive_bounds(logits, self.canvas)
                yield item, z, logits, iou, bounds
                if item.z_min < item.z_max:
                    own = self.propagation == "own"
                    item.boxes[z] = item.own_box(bounds) if own else _litemedsam_box(item.label, logits, self.canvas)


@dataclass
class _Object:
    """One box on its way through the slices z_min to z_max, both included.

    given_box: float32 (4,) on the grid; box_bounds: grid pixels that its native pixels cover; boxes: by slice visited,
    the box around the mask there, None for an empty one.
    """

    label: int
    z_min: int
    z_mid: int
    z_max: int
    given_box: Float32Array
    box_bounds: Bounds
    boxes: dict[int, Float32Array | None] = field(default_factory=dict)

    def prompt(self, z: int) -> Float32Array:
        """Return the box for slice z: that of the slice before, towards the middle, or the given one."""
        box = None if z == self.z_mid else self.boxes[z - 1 if z > self.z_mid else z + 1]
        return self.given_box if box is None else box

    def own_box(self, bounds: Bounds | None) -> Float32Array | None:
        """Return the box around the object's low-resolution mask, within the given one; None where there is none."""
        if bounds is None:
            return None
        box = grow_bounds(bounds, BOX_MARGIN, self.box_bounds)
        return box if (box[:2] < box[2:]).all() else None


def _litemedsam_box(label: int, logits: Float32Array, canvas: Canvas) -> Float32Array | None:
    """Return the box around the native mask, filled with its label and resized by area."""
    # The original's 8-bit map overflows past 255 objects; those get 16 bits.
    filled = mask_to_native(logits, canvas).astype(np.uint8 if label < 256 else np.uint16) * label
    resized = resize_longest_side(filled, canvas.size)
    return box_from_mask(resized, BOX_MARGIN, limit=canvas.size)


def _plan_objects(boxes: AnyArray, canvas: Canvas, z_max_inclusive: bool) -> list[_Object]:
    """Return what is to be segmented; boxes: (N, 4) or (N, 6), as `fit_boxes` returns them."""
    wide = boxes.astype(np.float64)
    if wide.shape[1] == 4:  # an image's boxes lie on slice 0
        wide, z_max_inclusive = np.insert(wide, [2, 4], 0.0, axis=1), True
    grid_boxes = boxes_to_grid(wide[:, [0, 1, 3, 4]], canvas.height, canvas.width, canvas.size)
    ends = np.ceil((wide[:, [3, 4]] + 1) * canvas.scale) - 1
    ends = np.minimum(ends, [canvas.resized_width - 1, canvas.resized_height - 1])
    objects = []
    for label, (box, grid_box, end) in enumerate(zip(wide, grid_boxes, ends, strict=True), start=1):
        z_min, z_written = int(box[2]), int(box[5])
        # The middle of the range as written, as both original scripts take it.
        z_mid = int((z_written - z_min) / 2 + z_min)
        box_bounds = int(grid_box[0]), int(grid_box[1]), int(end[0]), int(end[1])
        objects.append(_Object(label, z_min, z_mid, z_written - (not z_max_inclusive), grid_box, box_bounds))
    return objects
