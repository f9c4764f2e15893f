"""Pictures of cases: mask outlines, ground truth and prompt boxes over an image.

`draw_overlay` draws a whole image or the objects of a volume, `draw_detail` the surroundings of some objects, and
`draw_panel` one case of a report. scikit-image is imported on first use.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import to_uint8
from graysam.imaging.outlines import (
    BLACK,
    RGB,
    WHITE,
    YELLOW,
    Picture,
    add_caption,
    box_path,
    draw_dashed,
    draw_paths,
    label_colour,
    outlines,
)
from graysam.imaging.prompts import mask_bounds
from graysam.system.files import replacing

MIN_SIDE, MAX_SIDE = 512, 1536  # px, longest side of an image in an overlay; a volume's slices have 512
PANEL_SIDE = 560  # px
MAX_OBJECTS = 6  # slices of a volume's overlay
MARGIN = 0.5  # around the objects of a detail, in units of their longer side
MIN_DETAIL = 64  # px of the image
MANY_OBJECTS = 10  # a panel with more has thinner lines
# A panel's colours: colour-blind safe (Okabe and Ito 2008).
TRUTH: RGB = (86, 180, 233)
PREDICTION: RGB = (230, 159, 0)
BOX: RGB = WHITE

_GAP = 4  # px between image and masks, and between slices


def draw_overlay(
    image: NDArray[Any],
    segs: NDArray[Any],
    boxes: NDArray[Any] | None = None,
    gts: NDArray[Any] | None = None,
    *,
    caption: str = "",
) -> Picture:
    """Draw the image with its boxes, and beside it the image with the outlines of its masks.

    Args:
        image: (H,W), (H,W,3) RGB or (D,H,W); dtypes other than uint8 are scaled by minimum and maximum.
        segs: integer labels (H,W) or (D,H,W), drawn in one colour a label.
        boxes: (N,4) or (N,6), inclusive pixel indices, drawn in yellow.
        gts: integer labels like `segs`, drawn as dashes of white and black.
        caption: a line of text above.

    Returns:
        uint8 RGB (h,w,3). A volume is drawn at the middle slices of up to 6 objects, evenly chosen: the object's middle
        slice in `gts`, else in its box, else in `segs`; without objects at its middle slice.

    Raises:
        ValueError: shapes that do not belong together.
    """
    _check_shapes(image, segs, boxes, gts)
    image = to_uint8(image)
    if segs.ndim == 2:
        side = min(max(*segs.shape, MIN_SIDE), MAX_SIDE)
        return add_caption(_draw_slice(image, segs, boxes, gts, side), caption)
    from skimage.util import montage

    slices = []
    for label, z in _middle_slices(segs, boxes, gts):
        at_z = None if boxes is None else boxes[(boxes[:, 2] <= z) & (z <= boxes[:, 5])][:, [0, 1, 3, 4]]
        picture = _draw_slice(image[z], segs[z], at_z, None if gts is None else gts[z], MIN_SIDE)
        slices.append(add_caption(picture, f"object {label}, slice {z}" if label else f"slice {z}"))
    columns = min(len(slices), 2)
    grid = (-(-len(slices) // columns), columns)
    pictures = montage(np.stack(slices), fill=BLACK, grid_shape=grid, padding_width=_GAP, channel_axis=-1)
    return add_caption(pictures, caption)


def write_overlay(
    path: str | Path,
    image: NDArray[Any],
    segs: NDArray[Any],
    boxes: NDArray[Any] | None = None,
    gts: NDArray[Any] | None = None,
    *,
    caption: str = "",
) -> None:
    """Write the picture of `draw_overlay` as PNG; the file appears only when it is complete.

    Raises:
        ValueError: as `draw_overlay`.
        OSError: the file cannot be written.
    """
    picture = draw_overlay(image, segs, boxes, gts, caption=caption)
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(encoded.tobytes())


def draw_detail(
    image: NDArray[Any], segs: NDArray[Any], boxes: NDArray[Any], gts: NDArray[Any], *, caption: str = ""
) -> Picture:
    """Draw `draw_overlay` of the square around the boxes and masks of a 2D image; see `detail_window`."""
    x, y, side = detail_window(segs.shape, boxes, (segs, gts))
    image, segs, gts = (crop_square(array, x, y, side) for array in (image, segs, gts))
    return draw_overlay(image, segs, boxes - np.array([x, y, x, y]), gts, caption=caption)


def draw_panel(
    image: NDArray[np.uint8],
    boxes: NDArray[Any],
    masks: NDArray[Any] | None = None,
    gts: NDArray[Any] | None = None,
    *,
    side: int = PANEL_SIDE,
) -> Picture:
    """Draw boxes, masks and ground truth of a 2D image upon each other, on the square of `detail_window`.

    The ground truth is a thin line upon the thick line of the masks, so that both are visible where they agree. Boxes
    are dashed and lie below both.

    Args:
        image: uint8 (H,W) or (H,W,3) RGB.
        boxes: (N,4), inclusive pixel indices; N may be 0.
        masks: integer labels (H,W), or None.
        gts: integer labels (H,W), or None.
        side: of the picture, px.

    Returns:
        uint8 RGB (side,side,3), black beyond the image.
    """
    labels = [array for array in (masks, gts) if array is not None]
    x, y, length = detail_window(image.shape[:2], boxes, labels)
    picture = _resized_rgb(crop_square(image, x, y, length), (side, side))
    scale = side / length
    thin = max([len(boxes), *(len(np.unique(array)) for array in labels)]) > MANY_OBJECTS
    for box in boxes - np.array([x, y, x, y]):
        draw_dashed(picture, box_path(box, scale), (BOX, BLACK), 1 if thin else 3)
    if masks is not None:
        paths = [path for _, path in outlines(crop_square(masks, x, y, length), scale)]
        for colour, thickness in ((BLACK, 6 if thin else 10), (PREDICTION, 4 if thin else 8)):
            draw_paths(picture, paths, colour, thickness)
    if gts is not None:
        paths = [path for _, path in outlines(crop_square(gts, x, y, length), scale)]
        draw_paths(picture, paths, TRUTH, 2 if thin else 3)
    return picture


def detail_window(shape: tuple[int, ...], boxes: NDArray[Any], masks: Iterable[NDArray[Any]]) -> tuple[int, int, int]:
    """Return the square that holds all boxes and masks with a margin.

    Args:
        shape: (H,W) of the image.
        boxes: (N,4), inclusive pixel indices.
        masks: arrays (H,W), non-zero inside.

    Returns:
        x and y of the upper left corner, and the side, px: at least 64, at most the longer side of the image. The
        square lies within the image, or is centred on it along an axis where the image is smaller. Without boxes and
        masks it holds the whole image.
    """
    height, width = shape
    bounds = [*boxes.tolist(), *filter(None, map(mask_bounds, masks))] or [(0, 0, width - 1, height - 1)]
    low, high = np.min(bounds, axis=0)[:2], np.max(bounds, axis=0)[2:] + 1
    side = int(min(max((high - low).max() * (1 + 2 * MARGIN), MIN_DETAIL), max(height, width)))
    corner = np.rint((low + high - side) / 2).astype(int).tolist()
    x, y = (
        min(max(start, 0), limit - side) if limit >= side else (limit - side) // 2
        for start, limit in zip(corner, (width, height), strict=True)
    )
    return x, y, side


def crop_square(image: NDArray[Any], x: int, y: int, side: int) -> NDArray[Any]:
    """Return a square of an image (H,W) or (H,W,C) with its corner at (x, y), zero beyond the image's borders."""
    square = np.zeros((side, side, *image.shape[2:]), image.dtype)
    top, left = max(y, 0), max(x, 0)
    part = image[top : y + side, left : x + side]
    square[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = part
    return square


def _draw_slice(
    image: NDArray[Any], segs: NDArray[Any], boxes: NDArray[Any] | None, gts: NDArray[Any] | None, side: int
) -> Picture:
    """Draw one slice, longest side `side` px: the image with boxes | the image with the outlines of segs and gts."""
    height, width = segs.shape
    scale = side / max(height, width)
    prompts = _resized_rgb(image, (max(1, round(width * scale)), max(1, round(height * scale))))
    masks = prompts.copy()
    for box in () if boxes is None else boxes:
        draw_paths(prompts, [box_path(box, scale)], YELLOW, 1)
    for label, path in outlines(segs, scale):
        draw_paths(masks, [path], label_colour(label), 2)
    for _, path in () if gts is None else outlines(gts, scale):
        draw_dashed(masks, path, (WHITE, BLACK), 1)
    return np.hstack([prompts, np.zeros((len(prompts), _GAP, 3), np.uint8), masks])


def _resized_rgb(image: NDArray[Any], size: tuple[int, int]) -> Picture:
    """Resize an image to (width, height), as RGB."""
    rgb = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    shrinks = size[0] < image.shape[1] or size[1] < image.shape[0]
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8)


def _middle_slices(segs: NDArray[Any], boxes: NDArray[Any] | None, gts: NDArray[Any] | None) -> list[tuple[int, int]]:
    """Return (label, z) of up to 6 objects; (0, middle) where there is no object."""
    middles = _middle_of_labels(segs)
    for label, box in enumerate(() if boxes is None else boxes, start=1):
        middles[label] = min(max(int((box[2] + box[5]) / 2), 0), len(segs) - 1)
    if gts is not None:
        middles |= _middle_of_labels(gts)
    labels = sorted(middles)
    if len(labels) > MAX_OBJECTS:
        labels = [labels[i] for i in np.linspace(0, len(labels) - 1, MAX_OBJECTS).round().astype(int)]
    return [(label, middles[label]) for label in labels] or [(0, len(segs) // 2)]


def _middle_of_labels(labels: NDArray[Any]) -> dict[int, int]:
    """Return label -> the middle one of the slices that hold it."""
    slices: dict[int, list[int]] = {}
    for z, plane in enumerate(labels):
        for label in np.unique(plane[plane > 0]).tolist():
            slices.setdefault(label, []).append(z)
    return {label: found[len(found) // 2] for label, found in slices.items()}


def _check_shapes(
    image: NDArray[Any], segs: NDArray[Any], boxes: NDArray[Any] | None, gts: NDArray[Any] | None
) -> None:
    grid = image.shape[:2] if segs.ndim == 2 else image.shape
    if segs.ndim not in (2, 3) or image.ndim not in (segs.ndim, 3) or segs.shape != grid or not segs.size:
        raise ValueError(f"segs have shape {segs.shape}, the image {image.shape}; required: the same grid, 2D or 3D")
    if gts is not None and gts.shape != segs.shape:
        raise ValueError(f"gts have shape {gts.shape}, segs {segs.shape}; required: the same grid")
    columns = 4 if segs.ndim == 2 else 6
    if boxes is not None and boxes.shape[1:] != (columns,):
        raise ValueError(f"boxes have shape {boxes.shape}; required: (N,{columns})")
