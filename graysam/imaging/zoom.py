"""How closely a box is looked at: which views an image's boxes get."""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from graysam.imaging.views import View
from graysam.system.environment import preset_names, read_preset

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

GROWTH_STEP = 1.5  # of shared windows, until the views are few enough


@dataclass(frozen=True, kw_only=True)
class Look:
    """How boxes of a size are looked at.

    Attributes:
        up_to_px: longer side of the largest such box, in pixels of the full view's grid.
        context: side of its window, in longer sides of the box.
        weight: of the window's logits, from 0 to 1; the full view's have the rest, and at 1 it is not seen.
    """

    up_to_px: float
    context: float
    weight: float

    def __post_init__(self) -> None:
        _check_number("up_to_px", self.up_to_px)
        _check_number("context", self.context)
        if isinstance(self.weight, bool) or not 0 < self.weight <= 1:
            raise ValueError(f"weight is {self.weight!r}; required: a number above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class Zoom:
    """The rule by which boxes get views of their own; the presets are the files of `conf/zoom`.

    Attributes:
        looks: by size of a box, the smallest first. Boxes larger than the last keep the full view.
        min_image_px: longer side of the smallest images that get windows, in native pixels.
        max_enlargement: grid pixels per native pixel, at most.
        growth: how many times larger than a box asks for its window may be, so that neighbours share one.
        max_views: of an image or slice, the full one included, at least 2. Where boxes ask for more, windows grow
            further and take in more of them.

    Raises:
        ValueError: numbers out of range.
    """

    looks: tuple[Look, ...]
    min_image_px: int
    max_enlargement: float
    growth: float
    max_views: int

    def __post_init__(self) -> None:
        for name in ("min_image_px", "max_enlargement", "growth"):
            _check_number(name, getattr(self, name))
        _check_number("max_views", self.max_views, least=2)  # fewer would never be few enough
        limits = [look.up_to_px for look in self.looks]
        if limits != sorted(set(limits)):
            raise ValueError(f"up_to_px of looks are {limits}; required: each larger than the one before")

    def look(self, box_xyxy: npt.ArrayLike, full: View) -> Look | None:
        """Return how a box (4,) is looked at; None for the full view alone."""
        longer = float(_longer_sides(np.asarray(box_xyxy, np.float64)[None], full)[0]) * full.canvas.scale
        return next((look for look in self.looks if longer <= look.up_to_px), None)

    def sides(self, boxes_xyxy: npt.ArrayLike, full: View) -> Float64Array:
        """Return the side of the window that each box (N, 4) asks for, in native pixels; infinite for the full view."""
        longer = _longer_sides(np.asarray(boxes_xyxy, np.float64), full)
        sides = np.full(len(longer), math.inf)
        for look in reversed(self.looks):
            sides = np.where(longer * full.canvas.scale <= look.up_to_px, look.context * longer, sides)
        sides = np.ceil(np.maximum(sides, full.size / self.max_enlargement))
        longest = max(full.right, full.bottom * full.aspect)
        return np.where((sides < longest) & (longest >= self.min_image_px), sides, math.inf)

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


def zoom_names() -> list[str]:
    """Return the presets of `conf/zoom`, sorted."""
    return preset_names("zoom")


def load_zoom(choice: str | float, model: str = "") -> Zoom | None:
    """Return the rule of a preset, None where it has no looks.

    Args:
        choice: `off`, the name of a preset, or a number: `auto` with one look of this context at every box.
        model: its name; where there is a preset `auto_<model>`, that is its `auto`.

    Raises:
        ValueError: neither a preset nor a number of at least 1.
    """
    if choice == "off":
        return None
    presets = zoom_names()
    name = choice if isinstance(choice, str) and choice in presets else "auto"
    if choice == "auto" and f"auto_{model}" in presets:
        name = f"auto_{model}"
    parameters = read_preset("zoom", name)
    rule = Zoom(**{**parameters, "looks": tuple(Look(**look) for look in parameters["looks"])})
    if choice in presets:
        return rule if rule.looks else None
    try:
        factor = float(choice)
    except ValueError:
        choices = ", ".join(("off", *presets))
        raise ValueError(f"zoom is {choice!r}; required: one of {choices}, or a factor of at least 1") from None
    _check_number("zoom", factor)
    return replace(rule, looks=(Look(up_to_px=1 << 30, context=factor, weight=1.0),))


def _check_number(name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise ValueError(f"{name} is {value!r}; required: a number of at least {least}")


def _share(boxes: Float64Array, sides: Float64Array, growth: float, full: View, max_views: int) -> list[View] | None:
    """Return the view of each box, or None where there would be more than `max_views`.

    The box with the smallest window takes in its nearest neighbours, as many as fit into `growth` times that window.
    """
    views = [full] * len(boxes)
    windows = _windows(_edges(boxes), sides, full)
    units = np.array([1.0, full.aspect])
    left = np.argsort(sides, kind="stable")[: np.count_nonzero(np.isfinite(sides))]
    count = 1  # the full view
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


def _longer_sides(boxes: Float64Array, full: View) -> Float64Array:
    """Return the longer sides of boxes (N, 4), in widths of a native pixel."""
    return np.maximum(boxes[:, 2] - boxes[:, 0] + 1, (boxes[:, 3] - boxes[:, 1] + 1) * full.aspect)


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
