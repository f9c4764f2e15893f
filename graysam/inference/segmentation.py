"""Segment an image or a volume: which views and walks its boxes get, and how their masks become labels."""

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from graysam.imaging.canvas import to_uint8
from graysam.imaging.channels import Scheme
from graysam.imaging.prompts import fit_boxes, is_volume
from graysam.imaging.views import View, full_view
from graysam.imaging.zoom import Zoom
from graysam.inference.axes import AxesRule, Region, merge_walks
from graysam.inference.backend import Backend, Float32Array
from graysam.inference.walk import Propagation, TrackedObject, Visit, Walk, plan_objects
from graysam.io.image import Image
from graysam.system.terminal import format_ranges

AnyArray = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PromptMask:
    """What one prompt segmented.

    Attributes:
        mask: bool (H, W) or (D, H, W), the image's grid.
        logits: float32 (h, w), or (K, h, w) for the K slices of a volume's box; positive is inside. They are on the
            network's grid where the view covers it; with zoom, a volume's are whole grids, -inf where it does not.
        iou: predicted IoU, float32: a scalar, or (K,).
        slices: of the volume that were visited; range(0, 1) for an image.
        views: the windows of the image that the logits lie in, one a slice.
    """

    mask: npt.NDArray[np.bool_]
    logits: Float32Array
    iou: Float32Array
    slices: range
    views: tuple[View, ...]


class Segmentation:
    """One image or volume and its boxes on the way through a backend; to be used once.

    Args:
        image, boxes, z_max_inclusive: see `Predictor.predict`. No boxes give empty masks, and nothing is encoded.
        backend: the network.
        scheme: the channels that it takes.
        propagation: see `Walk`.
        size: side of the network's square input in pixels.
        zoom: which boxes are looked at more closely than on the whole image; None: none, as always with `litemedsam`.
        axes: which objects of a volume are walked along all axes; None: none, as always with `litemedsam`. A volume
            without a spacing counts as one of cubic voxels.

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
        zoom: Zoom | None = None,
        axes: AxesRule | None = None,
    ) -> None:
        if propagation not in get_args(Propagation):
            raise ValueError(f"propagation is {propagation!r}; required: own or litemedsam")
        if propagation == "litemedsam":
            zoom = axes = None
        given = np.asarray(boxes)
        if not isinstance(image, Image):
            pixels = np.asarray(image)
            image = Image(pixels, is_volume=is_volume(pixels, given))
        self.name, self.is_volume, pixels = image.name, image.is_volume, image.pixels
        fitted, notes = fit_boxes(given, pixels.shape, volume=self.is_volume, z_max_inclusive=z_max_inclusive)
        self._warn(*image.notes, *notes)
        self._slices = to_uint8(pixels) if self.is_volume else to_uint8(pixels)[None]
        self.shape: tuple[int, int, int] = self._slices.shape[:3]
        self.full = full_view(*self.shape[1:], size)
        wide = fitted.astype(np.float64)
        if not self.is_volume:  # an image's boxes lie on slice 0
            wide, z_max_inclusive = np.insert(wide, [2, 4], 0.0, axis=1), True
        self.objects = plan_objects(wide, self.full, z_max_inclusive, zoom)
        options: dict[str, Any] = {"backend": backend, "scheme": scheme, "zoom": zoom}
        self._walk = partial(Walk, self._slices, full=self.full, propagation=propagation, **options)
        self._zoomed = zoom is not None
        self._by_axes = np.zeros(len(wide), np.bool_)
        if axes is not None and self.is_volume:
            wide[:, 5] -= not z_max_inclusive
            spacing_mm = image.spacing_mm or (1.0, 1.0, 1.0)
            self._by_axes = axes.applies(wide, spacing_mm)
            options |= {"size": size, "spacing_mm": spacing_mm}
            self._merge = partial(merge_walks, self._slices, wide[self._by_axes], **options)

    def visits(self, objects: Sequence[TrackedObject] | None = None) -> Iterator[Visit]:
        """Prompt every object, or the given ones, on each of their slices."""
        return self._walk(objects=self.objects if objects is None else objects).visits()

    def _merged(self) -> Iterator[tuple[int, Region, BoolArray]]:
        """Yield label, region of the volume and mask there of the objects that are walked along all axes."""
        labels = (np.flatnonzero(self._by_axes) + 1).tolist()
        for label, (region, mask) in zip(labels, self._merge() if labels else (), strict=True):
            yield label, region, mask

    def labels(self) -> npt.NDArray[np.uint16]:
        """Return labels uint16 (H, W) or (D, H, W): 0 is background, k is box k; later boxes overwrite earlier ones.

        A warning names the labels without a pixel, and why.
        """
        labels = np.zeros(self.shape, np.uint16)
        painted: dict[int, list[tuple[int | slice, slice, slice]]] = defaultdict(list)
        for label, region, mask in self._pieces():
            # The largest label is that of the last box, regardless of the order of the sweeps.
            block = labels[region]
            np.maximum(block, mask * np.uint16(label), out=block)
            if mask.any():
                painted[label].append(region)
        last = len(self.objects)  # whose pixels nothing overwrites
        covered = {
            label
            for label, blocks in painted.items()
            if label < last and not any((labels[block] == label).any() for block in blocks)
        }
        self._warn_of_missing(painted.keys(), covered)
        return labels if self.is_volume else labels[0]

    def _pieces(self) -> Iterator[tuple[int, tuple[int | slice, slice, slice], BoolArray]]:
        """Yield label, part of the volume and mask there until all masks are complete."""
        single = [item for item, merged in zip(self.objects, self._by_axes, strict=True) if not merged]
        for item, z, view, logits, _, bounds in self.visits(single):
            for rows, columns, mask in view.native_blocks(logits, bounds):
                yield item.label, (z, rows, columns), mask
        yield from self._merged()

    def masks(self) -> list[PromptMask]:
        """Segment into one mask a box, which may overlap. A warning names those that are empty, and why.

        Logits and predicted IoU of an object that is walked along all axes are those of the walk through its slices.
        """
        found: list[PromptMask] = []
        views: list[list[View]] = []
        for item in self.objects:
            slices = range(item.z_min, item.z_max + 1)
            whole = self.is_volume and self._zoomed
            grid = (item.view.size,) * 2 if whole else (item.view.canvas.resized_height, item.view.canvas.resized_width)
            logits = np.full((len(slices), *grid), -np.inf, np.float32)
            views.append([item.view] * len(slices))
            found.append(
                PromptMask(np.zeros(self.shape, np.bool_), logits, np.empty(len(slices), np.float32), slices, ())
            )
        for item, z, view, logits, iou, bounds in self.visits():
            prompt = found[item.label - 1]
            for rows, columns, mask in view.native_blocks(logits, bounds):
                prompt.mask[z, rows, columns] = mask
            place = z - item.z_min
            height, width = view.canvas.resized_height, view.canvas.resized_width
            prompt.logits[place, :height, :width], prompt.iou[place] = logits[:height, :width], iou
            views[item.label - 1][place] = view
        for label, region, mask in self._merged():
            found[label - 1].mask[:] = False
            found[label - 1].mask[region] = mask
        self._warn_of_missing({label for label, prompt in enumerate(found, start=1) if prompt.mask.any()})
        masks = [PromptMask(m.mask, m.logits, m.iou, m.slices, tuple(v)) for m, v in zip(found, views, strict=True)]
        return (
            masks
            if self.is_volume
            else [PromptMask(m.mask[0], m.logits[0], m.iou[0], m.slices, m.views) for m in masks]
        )

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
                box = item.grid_box(item.view)
                small = (box[2:] - box[:2]).min() < 1
                grid = f"smaller than a pixel of the {item.view.size}-pixel grid, so crop the image"
                reasons[grid if small else "empty mask"].append(item.label)
        if missing := sum(map(len, reasons.values())):
            parts = [f"labels {format_ranges(labels)} ({reason})" for reason, labels in reasons.items()]
            self._warn(f"{missing} of {len(self.objects)} boxes without a pixel in the mask: {', '.join(parts)}")
