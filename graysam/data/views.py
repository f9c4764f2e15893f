"""Which part of an image a training sample shows: the whole, or a window around one of its boxes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from graysam.data.augment import Box, Image, Jitter, Masks
from graysam.imaging.canvas import resize_labels
from graysam.imaging.prompts import mask_bounds
from graysam.imaging.views import View, full_view
from graysam.imaging.zoom import Look, Zoom

# Draws the rule by which a sample's box gets a window of its own; None shows the whole image.
Views = Callable[[np.random.Generator], Zoom | None]


@dataclass(frozen=True, kw_only=True)
class FullViews:
    """Show the whole image, as the paper and its released code do."""

    def __call__(self, rng: np.random.Generator) -> Zoom | None:
        return None


@dataclass(frozen=True, kw_only=True)
class MixedViews:
    """Show a window around the box with a probability, otherwise the whole image.

    Attributes:
        probability: of a window.
        min_context, max_context: range of the window's side in longer sides of the box, drawn log-uniformly.
        min_image_px, max_enlargement: as for `Zoom`, in pixels of the stored image, or of the original where that is
            smaller.

    Raises:
        ValueError: numbers out of range.
    """

    probability: float
    min_context: float
    max_context: float
    min_image_px: int
    max_enlargement: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"views.probability is {self.probability}; required: 0 to 1")
        if not 1 <= self.min_context <= self.max_context:
            raise ValueError(
                f"views.min_context is {self.min_context}, views.max_context {self.max_context}; "
                "required: at least 1, and the first not above the second"
            )
        self._rule(self.min_context), self._rule(self.max_context)  # refuse what prediction would refuse

    def __call__(self, rng: np.random.Generator) -> Zoom | None:
        drawn = rng.random() < self.probability
        context = math.exp(rng.uniform(math.log(self.min_context), math.log(self.max_context)))
        return self._rule(context) if drawn else None

    def _rule(self, context: float) -> Zoom:
        """Return prediction's rule with one context for boxes of every size and one window for each box."""
        return Zoom(
            looks=(Look(up_to_px=1 << 30, context=context, weight=1.0),),
            min_image_px=self.min_image_px,
            max_enlargement=self.max_enlargement,
            growth=1,
            max_views=2,
        )


class Crop(NamedTuple):
    """A window of an image, and the masks (H, W) and boxes (4,) on its grid of the objects that it shows."""

    view: View
    masks: Masks
    boxes: list[Box]


def draw_crop(
    image: Image, masks: Masks, rule: Zoom, *, enlarged: float, size: int, jitter: Jitter, rng: np.random.Generator
) -> Crop | None:
    """Choose the window around the first object's box, which is changed first, as prediction follows the given box.

    Boxes are changed in pixels of the stored image, as a user's are drawn on the original, and then go to the window's
    grid by the rule of prediction. A jitter that is a fraction of the box's side, as in the paper, is the same on any
    grid; one in pixels counts pixels of the stored image. On the window's grid neither would be possible, because the
    window depends on the changed box.

    Args:
        image: uint8 (H, W) or (H, W, 3), as stored or augmented.
        masks: its objects, bool (H, W), none empty. Others than the first are left out where the window does not
            contain their changed box, or nothing of them remains on its grid.
        rule: by which the box gets its window.
        enlarged: stored pixels per pixel of the original.
        size: side of the grid, px.
        jitter: random change of boxes.
        rng: of the jitter.

    Returns:
        The crop; None where the box asks for the whole image, or nothing of the first object remains.
    """
    height, width = image.shape[:2]
    full = full_view(height, width, size)
    boxes = [jitter(np.array(mask_bounds(mask), np.float32), height, width, rng) for mask in masks]
    if enlarged > 1:
        most = max(rule.max_enlargement / enlarged, 1.0)
        rule = replace(rule, min_image_px=math.ceil(rule.min_image_px * enlarged), max_enlargement=most)
    (view,) = rule.plan(boxes[:1], full)
    small = [resize_labels(view.crop(mask), size) for mask in masks]
    if view == full or not small[0].any():
        return None
    shown = [at for at, box in enumerate(boxes) if _contains(view, box) and small[at].any()]
    return Crop(view, [small[at] for at in shown], list(view.boxes_to_grid([boxes[at] for at in shown])))


def _contains(view: View, box_xyxy: Sequence[float] | Box) -> bool:
    left, top, right, bottom = box_xyxy
    return bool(view.left <= left and view.top <= top and right < view.right and bottom < view.bottom)
