"""Follow objects through the slices of a volume, over a backend's two calls, `encode` and `decode`.

Every object starts at its middle slice with its given box, then goes upwards and downwards, prompted at each slice by
the box around its own mask on the slice before. Source: LiteMedSAM's CVPR24_LiteMedSAM_infer.py, except that every
object follows its own mask and every slice is encoded once; `propagation="litemedsam"` keeps its box rule.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from graysam.imaging.canvas import Canvas, prepare_image, resize_longest_side
from graysam.imaging.channels import Scheme
from graysam.imaging.masks import box_from_mask, grow_bounds, mask_to_native, positive_bounds
from graysam.imaging.prompts import Bounds
from graysam.imaging.views import View
from graysam.imaging.zoom import Zoom
from graysam.inference.backend import BOX_BATCH, Backend, Float32Array, FloatArray, decode_all

AnyArray = npt.NDArray[Any]
Float64Array = npt.NDArray[np.float64]
Propagation = Literal["own", "litemedsam"]

EMBEDDING_BYTES = 192 << 20  # kept at most: 48 slices in float32, 96 in float16
BOX_MARGIN = 3  # grid pixels a side around the previous slice's mask, as LiteMedSAM


@dataclass
class TrackedObject:
    """One box on its way through the slices z_min to z_max, both included.

    Attributes:
        label: of its pixels.
        z_min, z_mid, z_max: slices; the first one visited is z_mid.
        box: the given one, float64 (4,), in pixels of a slice.
        view: where it is looked for first.
        found: by slice visited, the view and the box around the mask on its grid, None for an empty mask.
    """

    label: int
    z_min: int
    z_mid: int
    z_max: int
    box: Float64Array
    view: View
    found: dict[int, tuple[View, Float32Array | None]] = field(default_factory=dict)

    def prompt(self, z: int) -> tuple[View, Float32Array | None]:
        """Return view and box for slice z, those found on the slice before, towards the middle; None: the given box."""
        return (self.view, None) if z == self.z_mid else self.found[z - 1 if z > self.z_mid else z + 1]

    def grid_box(self, view: View) -> Float32Array:
        """Return the given box on the grid of a view, float32 (4,)."""
        return np.asarray(view.boxes_to_grid(self.box[None])[0])

    def own_box(self, view: View, bounds: Bounds | None) -> Float32Array | None:
        """Return the box around the object's low-resolution mask, within the given one; None where there is none."""
        if bounds is None:
            return None
        canvas, (x_min, y_min, _, _) = view.canvas, self.grid_box(view)
        x_end, y_end = self.box[2] + 1 - view.left, self.box[3] + 1 - view.top
        last = np.ceil(np.array([x_end, y_end * view.aspect]) * canvas.scale) - 1
        x_max, y_max = np.minimum(last, [canvas.resized_width - 1, canvas.resized_height - 1])
        box = grow_bounds(bounds, BOX_MARGIN, (int(x_min), int(y_min), int(x_max), int(y_max)))
        return box if (box[:2] < box[2:]).all() else None


class Visit(NamedTuple):
    """One object on one slice.

    Attributes:
        item: the object.
        z: the slice.
        view: the part of the slice that was seen.
        logits: float32 on the view's grid; they hold until the next visit.
        iou: predicted IoU.
        bounds: of the positive logits where the view lies on the grid.
    """

    item: TrackedObject
    z: int
    view: View
    logits: Float32Array
    iou: float
    bounds: Bounds | None


class Walk:
    """The walk of all objects through the slices; to be used once.

    Every view of a slice is encoded once however many objects share it: one sweep goes up through all objects, one
    down. A view that both sweeps need keeps its embedding, as the backend gave it, within EMBEDDING_BYTES; past that it
    is encoded again.

    Args:
        slices: uint8 (D, H, W) or (1, H, W, 3).
        objects: see `plan_objects`.
        full: the view of a whole slice.
        backend: the network.
        scheme: the channels that it takes.
        propagation: where the next slice's box comes from, always grown by 3 grid pixels a side; an empty mask falls
            back to the given box.
            `own`: the object's low-resolution mask, clipped to the pixels of the given box, which surrounds the object
            in every slice, so that prompts cannot drift away. A mask wholly outside counts as empty.
            `litemedsam`: the native mask filled with its label, resized by area and clipped to `size`, as LiteMedSAM's
            script does it; depends on the label's number. Kept to reproduce the published baseline.
        zoom: gives an object another view where the one of the slice before no longer suits its box; None keeps views.
    """

    def __init__(
        self,
        slices: AnyArray,
        objects: Sequence[TrackedObject],
        full: View,
        backend: Backend,
        scheme: Scheme,
        *,
        propagation: Propagation = "own",
        zoom: Zoom | None = None,
    ) -> None:
        self._objects, self._full = objects, full
        self._backend, self._embeddings = backend, _Embeddings(slices, backend, scheme)
        self._propagation, self._zoom = propagation, zoom

    def visits(self) -> Iterator[Visit]:
        """Prompt every object on each of its slices: one sweep up, one down."""
        up: dict[int, list[TrackedObject]] = defaultdict(list)
        down: dict[int, list[TrackedObject]] = defaultdict(list)
        for item in self._objects:
            for z in range(item.z_min, item.z_max + 1):
                (up if z >= item.z_mid else down)[z].append(item)
        sweeps = [(z, up[z], z in down) for z in sorted(up)] + [(z, down[z], False) for z in sorted(down, reverse=True)]
        for z, present, again in sweeps:
            prompts: dict[View, list[_Prompt]] = defaultdict(list)
            for prompt in self._prompts(z, present):
                prompts[prompt.view].append(prompt)
            with self._embeddings.of_slice(z, keep=again):
                for view, prompted in prompts.items():
                    for start in range(0, len(prompted), BOX_BATCH):
                        yield from self._decode(z, view, prompted[start : start + BOX_BATCH])

    def _decode(self, z: int, view: View, prompts: Sequence["_Prompt"]) -> Iterator[Visit]:
        """Segment a slice by prompts on one view, and by the full view's answers to the same ones."""
        both = [prompt for prompt in prompts if prompt.weight < 1]
        on_full = {
            prompt.item.label: (self._full.resample(logits, view), iou)
            for prompt, (logits, iou) in zip(both, self._answers(self._full, [p.full_box for p in both]), strict=True)
        }
        height, width = view.canvas.resized_height, view.canvas.resized_width
        for prompt, answer in zip(prompts, self._answers(view, [p.box for p in prompts]), strict=True):
            (logits, iou), item, weight = answer, prompt.item, prompt.weight
            if weight < 1:
                other, other_iou = on_full[item.label]
                logits = weight * logits[:height, :width] + (1 - weight) * other
                iou = weight * iou + (1 - weight) * other_iou
            bounds = positive_bounds(logits, view.canvas)
            yield Visit(item, z, view, logits, iou, bounds)
            if item.z_min < item.z_max:
                own = self._propagation == "own"
                found = item.own_box(view, bounds) if own else _litemedsam_box(item.label, logits, view.canvas)
                item.found[z] = view, found

    def _answers(self, view: View, boxes: Sequence[Float32Array]) -> Iterator[tuple[Float32Array, float]]:
        """Yield logits and predicted IoU of boxes on the view's grid; see `decode_all`."""
        if boxes:
            valid_size = view.canvas.resized_height, view.canvas.resized_width
            yield from decode_all(self._backend, self._embeddings.get(view), np.stack(boxes), valid_size)

    def _prompts(self, z: int, present: Sequence[TrackedObject]) -> Iterator["_Prompt"]:
        """Yield the prompts of a slice; where a view no longer suits its box, all objects get new views."""
        looks = [item.prompt(z) for item in present]
        if self._zoom is None:
            for item, (view, box) in zip(present, looks, strict=True):
                prompt = item.grid_box(view) if box is None else box
                yield _Prompt(item, view, prompt, 1.0, prompt)
            return
        natives = [
            item.box if box is None else view.to_native(box.reshape(2, 2)).reshape(4)
            for item, (view, box) in zip(present, looks, strict=True)
        ]
        views = [view for view, _ in looks]
        if not all(map(self._zoom.suits, views, natives, repeat(self._full))):
            views = self._zoom.plan(np.array(natives), self._full)
        for item, (former, box), native, view in zip(present, looks, natives, views, strict=True):
            look = None if view == self._full else self._zoom.look(native, self._full)
            weight = 1.0 if look is None else look.weight
            if box is None:
                yield _Prompt(item, view, item.grid_box(view), weight, item.grid_box(self._full))
                continue
            full_box, view_box = (
                box if target == former else target.to_grid(native.reshape(2, 2)).reshape(4).astype(np.float32)
                for target in (self._full, view)
            )
            yield _Prompt(item, view, view_box, weight, full_box)


class _Prompt(NamedTuple):
    """A box on the grid of a view, and on the full view's, whose logits have the rest of the weight."""

    item: TrackedObject
    view: View
    box: Float32Array
    weight: float
    full_box: Float32Array


class _Embeddings:
    """Embeddings of the views of a slice, each computed once, and kept for the other sweep within EMBEDDING_BYTES."""

    def __init__(self, slices: AnyArray, backend: Backend, scheme: Scheme) -> None:
        self._slices, self._backend, self._scheme = slices, backend, scheme
        self._kept: dict[int, dict[View, FloatArray]] = {}
        self._budget_bytes = EMBEDDING_BYTES
        self._z = 0

    @contextmanager
    def of_slice(self, z: int, *, keep: bool) -> Iterator[None]:
        """Remember the embeddings of a slice while it is looked at; `keep`: until it is looked at again."""
        self._z, self._current = z, self._kept.pop(z, {})
        yield
        for view, embedding in self._current.items():
            if keep and self._budget_bytes >= embedding.nbytes:
                self._budget_bytes -= embedding.nbytes
                self._kept.setdefault(z, {})[view] = embedding

    def get(self, view: View) -> FloatArray:
        """Return the embedding of a view of the slice."""
        if view not in self._current:
            image = prepare_image(view.crop(self._slices[self._z]), self._scheme, view.size, aspect=view.aspect)
            self._current[view] = self._backend.encode(image[None])[0].copy()  # a backend may use its buffer again
        return self._current[view]


def plan_objects(boxes: AnyArray, full: View, z_max_inclusive: bool, zoom: Zoom | None) -> list[TrackedObject]:
    """Return what is to be segmented: float64 boxes (N, 6) x_min, y_min, z_min, x_max, y_max, z_max of slices."""
    views = [full] * len(boxes) if zoom is None else zoom.plan(boxes[:, [0, 1, 3, 4]], full)
    objects = []
    for label, (box, view) in enumerate(zip(boxes, views, strict=True), start=1):
        z_min, z_written = int(box[2]), int(box[5])
        # The middle of the range as written, as both original scripts take it.
        z_mid = int((z_written - z_min) / 2 + z_min)
        objects.append(TrackedObject(label, z_min, z_mid, z_written - (not z_max_inclusive), box[[0, 1, 3, 4]], view))
    return objects


def _litemedsam_box(label: int, logits: Float32Array, canvas: Canvas) -> Float32Array | None:
    """Return the box around the native mask, filled with its label and resized by area."""
    # The original's 8-bit map overflows past 255 objects; those get 16 bits.
    filled = mask_to_native(logits, canvas).astype(np.uint8 if label < 256 else np.uint16) * label
    resized = resize_longest_side(filled, canvas.size)
    return box_from_mask(resized, BOX_MARGIN, limit=canvas.size)
