"""Views: windows of an image that the network sees in place of the whole, because a box says where to look."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from graysam.imaging.canvas import Canvas, boxes_to_grid
from graysam.imaging.masks import native_blocks
from graysam.imaging.prompts import Bounds
from graysam.system.environment import conf_dir

AnyArray = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

GROWTH_STEP = 1.5  # of shared windows, until the views are few enough


@dataclass(frozen=True)
class View:
    """A window of an image on the network's grid, where the rules of `imaging.canvas` hold as for a whole image.

    The window lies within the image, and the network sees nothing outside of it.

    Attributes:
        left, top: the first native pixel.
        right, bottom: one past the last native pixel.
        size: side of the grid, px.
        aspect: height of a native pixel in its widths.
    """

    left: int
    top: int
    right: int
    bottom: int
    size: int
    aspect: float = 1.0

    @cached_property
    def canvas(self) -> Canvas:
        """Geometry of the window as an image of its own."""
        return Canvas(self.bottom - self.top, self.right - self.left, self.size, self.aspect)

    def crop(self, image: AnyArray) -> AnyArray:
        """Return the window of an image (H, W) or (H, W, C), without a copy."""
        return image[self.top : self.bottom, self.left : self.right]

    def boxes_to_grid(self, boxes_xyxy: npt.ArrayLike) -> Float32Array:
        """Scale boxes (N, 4) from pixels of the image to the grid, truncated, as networks are prompted."""
        boxes = np.asarray(boxes_xyxy, np.float64) - (self.left, self.top, self.left, self.top)
        return boxes_to_grid(boxes, self.canvas.height, self.canvas.width, self.size, self.aspect)

    def to_grid(self, points_xy: npt.ArrayLike) -> Float64Array:
        """Map points (N, 2), indices of pixels of the image, to the grid, whose pixels also have integer centres."""
        return np.asarray((np.asarray(points_xy, np.float64) - (self.left, self.top) + 0.5) * self._scale - 0.5)

    def to_native(self, points_xy: npt.ArrayLike) -> Float64Array:
        """Map points (N, 2) from the grid to the image; the inverse of `to_grid`."""
        return np.asarray((np.asarray(points_xy, np.float64) + 0.5) / self._scale - 0.5 + (self.left, self.top))

    def native_blocks(
        self, logits: Float32Array, bounds: Bounds | None
    ) -> Iterator[tuple[slice, slice, npt.NDArray[np.bool_]]]:
        """Yield the mask of logits on the grid in blocks, as rows and columns of the image and mask."""
        for rows, columns, mask in native_blocks(logits, self.canvas, bounds):
            yield (
                slice(rows.start + self.top, rows.stop + self.top),
                slice(columns.start + self.left, columns.stop + self.left),
                mask,
            )

    @cached_property
    def _scale(self) -> Float64Array:
        """Grid pixels per native pixel in x and y, which differ as the resized sides are rounded."""
        canvas = self.canvas
        return np.array([canvas.resized_width / canvas.width, canvas.resized_height / canvas.height])


@dataclass(frozen=True, kw_only=True)
class Zoom:
    """The rule by which boxes get views of their own; the presets are the files of `conf/zoom`.

    Attributes:
        contexts: by the largest longer side of a box, in pixels of the full view's grid: the side of its window, in
            longer sides of the box. Larger boxes keep the full view.
        min_window_px: side of a window in native pixels, at least.
        max_enlargement: grid pixels per native pixel, at most.
        growth: how many times larger than a box asks for its window may be, so that neighbours share one.
        max_views: of an image or slice. Where boxes ask for more, windows grow further and take in more of them.

    Raises:
        ValueError: numbers out of range.
    """

    contexts: Mapping[int, float] = field(hash=False)
    min_window_px: int
    max_enlargement: float
    growth: float
    max_views: int

    def __post_init__(self) -> None:
        for name in ("min_window_px", "max_enlargement", "growth", "max_views"):
            _check_number(name, getattr(self, name))
        for side, context in self.contexts.items():
            _check_number("a size in contexts", side)
            _check_number(f"contexts[{side}]", context)

    def sides(self, boxes_xyxy: npt.ArrayLike, full: View) -> Float64Array:
        """Return the side of the window that each box (N, 4) asks for, in native pixels; infinite for the full view."""
        boxes = np.asarray(boxes_xyxy, np.float64)
        longer = np.maximum(boxes[:, 2] - boxes[:, 0] + 1, (boxes[:, 3] - boxes[:, 1] + 1) * full.aspect)
        sides = np.full(len(boxes), math.inf)
        for limit, context in sorted(self.contexts.items(), reverse=True):
            sides[longer * full.canvas.scale <= limit] = context
        sides = np.ceil(np.maximum(sides * longer, max(self.min_window_px, full.size / self.max_enlargement)))
        return np.where(sides < max(full.right, full.bottom * full.aspect), sides, math.inf)

    def suits(self, view: View, box_xyxy: npt.ArrayLike, full: View) -> bool:
        """Return whether a view holds the window that a box (4,) asks for and is not much larger."""
        box = np.asarray(box_xyxy, np.float64)[None]
        sides = self.sides(box, full)
        if math.isinf(sides[0]):
            return view == full
        left, top, right, bottom = _windows(_edges(box), sides, full)[0]
        holds = view.left <= left and view.top <= top and view.right >= right and view.bottom >= bottom
        return bool(holds and view.right - view.left <= self.growth * sides[0] + 1)

    def plan(self, boxes_xyxy: npt.ArrayLike, full: View) -> list[View]:
        """Return the view of each box (N, 4); neighbours share one, and N may be 0."""
        boxes = np.asarray(boxes_xyxy, np.float64)
        sides, growth = self.sides(boxes, full), self.growth
        while (views := _share(boxes, sides, growth, full, self.max_views)) is None:
            growth *= GROWTH_STEP
        return views


def full_view(height: int, width: int, size: int, aspect: float = 1.0) -> View:
    """Return the view of a whole image."""
    return View(0, 0, width, height, size, aspect)


def zoom_names() -> list[str]:
    """Return the presets of `conf/zoom`, sorted."""
    return sorted(path.stem for path in (conf_dir() / "zoom").glob("*.yaml"))


def load_zoom(choice: str | float) -> Zoom | None:
    """Return the rule of a preset; None for `off`; for a number, `auto` with this context for boxes of every size.

    Raises:
        ValueError: neither a preset nor a number of at least 1.
    """
    if choice == "off":
        return None
    import yaml  # only here: `off` needs none

    name = choice if isinstance(choice, str) and choice in zoom_names() else "auto"
    parameters = yaml.safe_load((conf_dir() / "zoom" / f"{name}.yaml").read_text(encoding="utf-8"))
    del parameters["_target_"]
    rule = Zoom(**parameters)
    if name == choice:
        return rule
    try:
        factor = float(choice)
    except ValueError:
        choices = ", ".join(("off", *zoom_names()))
        raise ValueError(f"zoom is {choice!r}; required: one of {choices}, or a factor of at least 1") from None
    _check_number("zoom", factor)
    return replace(rule, contexts={1 << 30: factor})


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; required: a number of at least 1")


def _share(boxes: Float64Array, sides: Float64Array, growth: float, full: View, max_views: int) -> list[View] | None:
    """Return the view of each box, or None where there would be more than `max_views`.

    The box with the smallest window takes in its nearest neighbours, as many as fit into `growth` times that window.
    """
    views = [full] * len(boxes)
    windows = _windows(_edges(boxes), sides, full)
    units = np.array([1.0, full.aspect])
    left = np.argsort(sides, kind="stable")[: np.count_nonzero(np.isfinite(sides))]
    count = int(left.size < len(boxes))
    while left.size:
        count += 1
        limit = growth * sides[left[0]]
        if count > max_views:
            return None
        if limit >= max(full.right, full.bottom * full.aspect):
            return views  # the full view holds the others as well
        near = left[sides[left] <= limit]
        distances = np.abs(windows[near] - windows[left[0]]).max(axis=1)
        near = near[np.argsort(distances, kind="stable")]
        low = np.minimum.accumulate(windows[near, :2])
        high = np.maximum.accumulate(windows[near, 2:])
        extents = ((high - low) * units).max(axis=1)
        last = np.flatnonzero(extents <= limit)[-1:].sum()  # the first alone, where rounding makes it too large
        members = near[: last + 1]
        bounds = np.concatenate([low[last], high[last]])[None].astype(np.float64)
        side = max(extents[last], sides[members].max())
        left_edge, top, right, bottom = _windows(bounds, np.array([side]), full)[0].tolist()
        view = View(left_edge, top, right, bottom, full.size, full.aspect)
        for index in members:
            views[index] = view
        left = left[~np.isin(left, members)]
    return views


def _edges(boxes: Float64Array) -> Float64Array:
    """Return the edges of the pixels in boxes of inclusive indices."""
    return np.asarray(boxes + np.array([0, 0, 1, 1]))


def _windows(edges: Float64Array, sides: Float64Array, full: View) -> IntArray:
    """Return windows (N, 4) of these sides around edges (N, 4), moved into the image, at most as large as it is."""
    windows = np.empty((len(edges), 4), np.int64)
    for axis, length, unit in ((0, full.right, 1.0), (1, full.bottom, full.aspect)):
        extent = np.minimum(np.ceil(sides / unit), length)
        start = np.floor((edges[:, axis] + edges[:, axis + 2] - extent) / 2 + 0.5)
        start = np.clip(start, 0, length - extent)
        windows[:, axis], windows[:, axis + 2] = start, start + extent
    return windows
