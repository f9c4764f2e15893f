"""Walk a volume along each of its axes; an object is where two of the three walks find it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from graysam.imaging.channels import Scheme
from graysam.imaging.views import full_view
from graysam.imaging.zoom import Zoom
from graysam.inference.backend import Backend
from graysam.inference.walk import TrackedObject, Visit, Walk, plan_objects
from graysam.system.environment import preset_names, read_preset

Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Region = tuple[slice, slice, slice]  # of z, y and x

GROUP_VOXELS = 1 << 26  # of boxes that are walked together, whose logits take two bytes a voxel
OUTSIDE = -8.0  # logit where a view does not reach
ORDERS = ((0, 1, 2), (1, 0, 2), (2, 0, 1))  # axes of a volume that are slice, row and column of each walk


@dataclass(frozen=True, kw_only=True)
class AxesRule:
    """Which objects are walked along all axes; the presets are the files of `conf/walk`.

    Attributes:
        max_anisotropy: of the volume: its largest spacing in smallest ones.
        min_slices: of the box along each axis.

    Raises:
        ValueError: numbers below 0, infinite or not numbers.
    """

    max_anisotropy: float
    min_slices: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{field.name} is {value!r}; required: a number of at least 0")

    def applies(self, boxes: Float64Array, spacing_mm: Sequence[float]) -> npt.NDArray[np.bool_]:
        """Return which boxes (N, 6), x, y, z of both corners, inclusive, are walked along all axes; spacing z, y, x."""
        isotropic = max(spacing_mm) <= self.max_anisotropy * min(spacing_mm)
        return np.asarray(isotropic & (boxes[:, 3:] - boxes[:, :3] + 1 >= self.min_slices).all(axis=1))


def load_walk(choice: str) -> AxesRule | None:
    """Return the rule of a preset, None for `slices`.

    Raises:
        ValueError: no such preset.
    """
    if choice == "slices":
        return None
    if choice not in (presets := preset_names("walk")):
        raise ValueError(f"walk is {choice!r}; required: one of slices, {', '.join(presets)}")
    return AxesRule(**read_preset("walk", choice))


def merge_walks(
    volume: npt.NDArray[np.uint8],
    boxes: Float64Array,
    spacing_mm: Sequence[float],
    *,
    backend: Backend,
    scheme: Scheme,
    size: int,
    zoom: Zoom | None,
) -> Iterator[tuple[Region, npt.NDArray[np.bool_]]]:
    """Yield the region of the volume that each box covers and the mask there: what two of three walks find.

    Slices of y and x are resampled to square pixels. No more of them are visited than along z, evenly spaced, and
    logits between them are interpolated, so that the three walks take at most three times as long as one. There is no
    mask outside of a box.

    Args:
        volume: uint8 (D, H, W).
        boxes: float64 (N, 6) x_min, y_min, z_min, x_max, y_max, z_max, all inclusive.
        spacing_mm: z, y, x.
        backend, scheme, size, zoom: see `Segmentation`.
    """
    voxels = (boxes[:, 3:] - boxes[:, :3] + 1).prod(axis=1)
    groups = np.cumsum(voxels) // GROUP_VOXELS
    for group in np.unique(groups):
        walks = _Walks(
            volume=volume,
            boxes=boxes[groups == group],
            spacing_mm=spacing_mm,
            backend=backend,
            scheme=scheme,
            size=size,
            zoom=zoom,
        )
        yield from walks.masks()


@dataclass(kw_only=True)
class _Walks:
    """The three walks of some boxes; the fields are the arguments of `merge_walks`."""

    volume: npt.NDArray[np.uint8]
    boxes: Float64Array
    spacing_mm: Sequence[float]
    backend: Backend
    scheme: Scheme
    size: int
    zoom: Zoom | None

    def __post_init__(self) -> None:
        self._low: IntArray = np.maximum(self.boxes[:, 2::-1], 0).astype(np.int64)  # z, y, x
        self._stop: IntArray = np.minimum(self.boxes[:, :2:-1].astype(np.int64) + 1, self.volume.shape)

    def masks(self) -> Iterator[tuple[Region, npt.NDArray[np.bool_]]]:
        votes = [np.zeros(stop - low, np.uint8) for low, stop in zip(self._low, self._stop, strict=True)]
        for order in ORDERS:
            for vote, logits in zip(votes, self._walk(order), strict=True):
                np.add(vote, logits > 0, out=vote)
        for low, stop, vote in zip(self._low, self._stop, votes, strict=True):
            z, y, x = (slice(start, end) for start, end in zip(low.tolist(), stop.tolist(), strict=True))
            yield (z, y, x), vote >= 2

    def _walk(self, order: tuple[int, int, int]) -> Iterator[Float32Array]:
        """Yield the logits of one walk, float32 (d, h, w) of each box."""
        along, rows, columns = order
        step = -(-self._visited(along) // self._visited(0))
        slices = self.volume.transpose(order)[::step]
        boxes = self.boxes[:, [2 - columns, 2 - rows, 2 - along, 5 - columns, 5 - rows, 5 - along]]
        boxes[:, 2] = np.minimum(-(-self._low[:, along] // step), len(slices) - 1)
        boxes[:, 5] = np.maximum((self._stop[:, along] - 1) // step, boxes[:, 2])
        aspect = self.spacing_mm[rows] / self.spacing_mm[columns]
        full = full_view(slices.shape[1], slices.shape[2], self.size, aspect)
        objects = plan_objects(boxes, full, True, self.zoom)
        stacks = [self._stack(item, order) for item in objects]
        for visit in Walk(slices, objects, full, self.backend, self.scheme, zoom=self.zoom).visits():
            self._record(visit, stacks[visit.item.label - 1], order)
        for item, stack, low, stop in zip(objects, stacks, self._low, self._stop, strict=True):
            place = (np.arange(low[along], stop[along]) / step - item.z_min).clip(0, len(stack) - 1)
            below = place.astype(np.int64)
            share = (place - below).astype(np.float32)[:, None, None]
            above = np.minimum(below + 1, len(stack) - 1)
            yield (stack[below] * (1 - share) + stack[above] * share).transpose(np.argsort(order))

    def _visited(self, axis: int) -> int:
        """Return how many slices across an axis hold a part of a box."""
        visited = np.zeros(self.volume.shape[axis], np.bool_)
        for low, stop in zip(self._low[:, axis], self._stop[:, axis], strict=True):
            visited[low:stop] = True
        return int(visited.sum())

    def _stack(self, item: TrackedObject, order: tuple[int, int, int]) -> npt.NDArray[np.float16]:
        """Return a place for an object's logits on the slices that a walk visits, within its box."""
        height, width = (self._stop - self._low)[item.label - 1][list(order[1:])]
        return np.full((item.z_max - item.z_min + 1, height, width), OUTSIDE, np.float16)

    def _record(self, visit: Visit, stack: npt.NDArray[np.float16], order: tuple[int, int, int]) -> None:
        """Write the logits of a visit where the view and the box meet."""
        row, view = visit.item.label - 1, visit.view
        (top, left), (bottom, right) = self._low[row][list(order[1:])], self._stop[row][list(order[1:])]
        y_min, y_stop = max(view.top, top), min(view.bottom, bottom)  # a view holds a part of the box
        x_min, x_stop = max(view.left, left), min(view.right, right)
        logits = view.native_logits(visit.logits)
        logits = logits[y_min - view.top : y_stop - view.top, x_min - view.left : x_stop - view.left]
        target = stack[visit.z - visit.item.z_min, y_min - top : y_stop - top, x_min - left : x_stop - left]
        target[...] = logits
