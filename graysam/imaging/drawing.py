"""Pictures of cases: mask outlines, ground truth and prompt boxes over an image.

`draw_overlay` draws a whole image or the objects of a volume, `draw_panel` the surroundings of a 2D image's objects.
Paths are float64 (n,2) x, y in pixels of the picture; whole numbers are edges between pixels. scikit-image is imported
on first use.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from graysam.imaging.canvas import to_uint8
from graysam.imaging.prompts import mask_bounds
from graysam.system.files import replacing

Picture = NDArray[np.uint8]
RGB = tuple[int, int, int]

YELLOW: RGB = (255, 255, 0)
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)
# A panel's colours: colour-blind safe (Okabe and Ito 2008).
TRUTH: RGB = (86, 180, 233)
PREDICTION: RGB = (230, 159, 0)
BOX: RGB = WHITE

MIN_SIDE, MAX_SIDE = 512, 1536  # px, longest side of an image in an overlay; a volume's slices have 512
PANEL_SIDE = 560  # px

_GAP = 4  # px between image and masks, and between slices
_DASH = 12  # px


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
    axes = segs.ndim
    boxes = np.zeros((0, 2 * axes)) if boxes is None else boxes
    gts = np.zeros_like(segs) if gts is None else gts
    if not image.shape[:axes] == segs.shape == gts.shape or boxes.shape[1] != 2 * axes:
        given = f"the image {image.shape}, segs {segs.shape}, gts {gts.shape}, boxes {boxes.shape}"
        raise ValueError(f"got {given}; required: the same grid, boxes of 4 numbers in 2D and 6 in 3D")
    image = to_uint8(image)
    if axes == 2:
        return _add_caption(_draw_slice(image, segs, boxes, gts, min(max(*segs.shape, MIN_SIDE), MAX_SIDE)), caption)
    from skimage.util import montage

    slices = []
    for label, z in _middle_slices(segs, boxes, gts):
        at_z = boxes[(boxes[:, 2] <= z) & (z <= boxes[:, 5])][:, [0, 1, 3, 4]]
        picture = _draw_slice(image[z], segs[z], at_z, gts[z], MIN_SIDE)
        slices.append(_add_caption(picture, f"object {label}, slice {z}" if label else f"slice {z}"))
    grid = ((len(slices) + 1) // 2, min(len(slices), 2))
    pictures = montage(np.stack(slices), fill=BLACK, grid_shape=grid, padding_width=_GAP, channel_axis=-1)
    return _add_caption(pictures, caption)


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture, uint8 RGB (h,w,3), as PNG; the file appears only when it is complete. Raises OSError."""
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def draw_panel(
    image: NDArray[np.uint8],
    boxes: NDArray[Any],
    masks: NDArray[Any] | None = None,
    gts: NDArray[Any] | None = None,
    *,
    caption: str = "",
) -> Picture:
    """Draw boxes, masks and ground truth of a 2D image upon each other, on the part of `detail_window`.

    The ground truth is a thin line upon the thick line of the masks, so that both are visible where they agree. Boxes
    are dashed and lie below both.

    Args:
        image: uint8 (H,W) or (H,W,3) RGB.
        boxes: (N,4), inclusive pixel indices; N may be 0.
        masks: integer labels (H,W), or None.
        gts: integer labels (H,W), or None.
        caption: a line of text above.

    Returns:
        uint8 RGB (h,w,3), the longest side of 560 px without the caption.
    """
    labels = [array for array in (masks, gts) if array is not None]
    rows, columns = window = detail_window(image.shape[:2], boxes, labels)
    scale = PANEL_SIDE / max(image[window].shape[:2])
    picture = _enlarged(image[window], scale)
    thin = max([len(boxes), *(len(np.unique(array)) for array in labels)]) > 10  # objects
    for box in boxes - np.array([columns.start, rows.start] * 2):
        _draw_dashed(picture, _box_path(box, scale), (BOX, BLACK), 1 if thin else 3)
    if masks is not None:
        paths = [path for _, path in _outlines(masks[window], scale)]
        _draw_paths(picture, paths, BLACK, 6 if thin else 10)
        _draw_paths(picture, paths, PREDICTION, 4 if thin else 8)
    if gts is not None:
        _draw_paths(picture, [path for _, path in _outlines(gts[window], scale)], TRUTH, 2 if thin else 3)
    return _add_caption(picture, caption)


def detail_window(shape: tuple[int, ...], boxes: NDArray[Any], masks: Iterable[NDArray[Any]]) -> tuple[slice, slice]:
    """Return the rows and columns of a square around all boxes and masks, with a margin of half their longer side.

    Args:
        shape: (H,W) of the image.
        boxes: (N,4), inclusive pixel indices.
        masks: arrays (H,W), non-zero inside.

    Returns:
        Slices within the image, 64 px or longer where the image is. Without boxes and masks they hold all of it.
    """
    limits = np.array(shape[::-1])
    bounds = [*boxes.tolist(), *filter(None, map(mask_bounds, masks))] or [(0, 0, *(limits - 1))]
    low, high = np.min(bounds, axis=0)[:2], np.max(bounds, axis=0)[2:] + 1
    side = int(max((high - low).max() * 2, 64))
    x, y = np.rint((low + high - side) / 2).astype(int).clip(0, np.maximum(limits - side, 0)).tolist()
    return slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1]))


def label_colour(label: int) -> RGB:
    """Return the RGB colour of a label: distinct between neighbouring labels, never near the yellow of the boxes."""
    # Degrees, without 30 to 80; multiples of the golden ratio are spread evenly.
    hue = 80 + (label * 0.61803398875) % 1 * 310
    pixel = np.array([[[hue % 360, 0.8, 1.0]]], np.float32)
    red, green, blue = (cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255).astype(int).tolist()
    return red, green, blue


def _draw_slice(image: NDArray[Any], segs: NDArray[Any], boxes: NDArray[Any], gts: NDArray[Any], side: int) -> Picture:
    """Draw one slice, longest side `side` px: the image with boxes | the image with the outlines of segs and gts."""
    scale = side / max(segs.shape)
    prompts = _enlarged(image, scale)
    masks = prompts.copy()
    _draw_paths(prompts, [_box_path(box, scale) for box in boxes], YELLOW, 1)
    for label, path in _outlines(segs, scale):
        _draw_paths(masks, [path], label_colour(label), 2)
    for _, path in _outlines(gts, scale):
        _draw_dashed(masks, path, (WHITE, BLACK), 1)
    return np.hstack([prompts, np.zeros((len(prompts), _GAP, 3), np.uint8), masks])


def _enlarged(image: NDArray[Any], scale: float) -> Picture:
    """Return an image `scale` times as large, as RGB."""
    rgb = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))


def _middle_slices(segs: NDArray[Any], boxes: NDArray[Any], gts: NDArray[Any]) -> list[tuple[int, int]]:
    """Return (label, z) of up to 6 objects; (0, middle) where there is no object."""
    in_segs, in_gts = (
        {label: (place[0].start + place[0].stop) // 2 for label, place in enumerate(find_objects(labels), 1) if place}
        for labels in (segs, gts)
    )
    in_boxes = {label: int((box[2] + box[5]) / 2) for label, box in enumerate(boxes, start=1)}
    middles = sorted((in_segs | in_boxes | in_gts).items()) or [(0, len(segs) // 2)]
    chosen = np.linspace(0, len(middles) - 1, min(len(middles), 6)).round().astype(int)
    return [(label, min(z, len(segs) - 1)) for label, z in (middles[i] for i in chosen)]


def _outlines(labels: NDArray[Any], scale: float) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (label, closed path) of every outline of integer labels (H,W), drawn `scale` times as large."""
    from skimage.measure import find_contours

    for label, place in enumerate(find_objects(labels), start=1):
        if place is not None:
            # The border of zeros closes outlines at the image's ends and moves pixels by one; their centres lie at
            # whole numbers here, half a pixel from their edges.
            offset = place[1].start - 0.5, place[0].start - 0.5
            for path in find_contours(np.pad(labels[place] == label, 1), 0.5):
                yield label, (path[:, ::-1] + offset) * scale


def _box_path(box: NDArray[Any], scale: float) -> NDArray[Any]:
    """Return the closed path around a box (4,) of inclusive pixel indices, drawn `scale` times as large."""
    x_min, y_min, x_max, y_max = (*box[:2], *(box[2:] + 1))
    corners = [(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max), (x_min, y_min)]
    return np.array(corners, np.float64) * scale


def _draw_paths(picture: Picture, paths: Iterable[NDArray[Any]], colour: RGB, thickness: int) -> None:
    """Draw paths into a picture; what lies beyond its borders is moved to them."""
    last = np.array(picture.shape[1::-1]) - 1
    cv2.polylines(picture, [np.rint(path).clip(0, last).astype(np.int32) for path in paths], False, colour, thickness)


def _draw_dashed(picture: Picture, path: NDArray[Any], colours: tuple[RGB, RGB], thickness: int) -> None:
    """Draw a path in dashes of two alternating colours."""
    travelled = np.concatenate([[0], np.hypot(*np.diff(path, axis=0).T).cumsum()])
    at = np.arange(travelled[-1] + 1)
    points = np.stack([np.interp(at, travelled, path[:, axis]) for axis in (0, 1)], axis=1)
    for dash, start in enumerate(range(0, len(points), _DASH)):
        _draw_paths(picture, [points[start : start + _DASH + 1]], colours[dash % 2], thickness)


def _add_caption(picture: Picture, caption: str) -> Picture:
    """Put a line of text above, where there is any; characters outside ASCII become `?`."""
    if not caption:
        return picture
    strip = np.zeros((22, picture.shape[1], 3), np.uint8)
    text = caption.encode("ascii", "replace").decode()
    cv2.putText(strip, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
    return np.vstack([strip, picture])
