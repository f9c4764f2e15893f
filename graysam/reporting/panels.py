"""One case as a picture: the surroundings of its objects, their boxes, and outlines of truth and prediction."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.reporting.case_files import View

Picture = NDArray[np.uint8]
RGB = tuple[int, int, int]

# Colour-blind safe (Okabe and Ito 2008), and seen on black and on white alike by the black line around each.
TRUTH: RGB = (86, 180, 233)
PREDICTION: RGB = (230, 159, 0)
BOX: RGB = (255, 255, 255)
_BLACK: RGB = (0, 0, 0)

SIDE = 560  # px
_MARGIN = 0.35  # around what is shown, as a share of its longer side
_LEAST = 32  # px of the image that are shown
_MANY = 10  # objects, from which on lines are thinner
_DASH = 14  # px


def panel(view: View, side: int = SIDE) -> Picture:
    """Draw a case: uint8 RGB (side,side), black where the image ends.

    The truth is a thin line upon the prediction's thick one, so that both are seen where they agree; boxes are dashed
    and lie below both, because tight ones would hide what they touch. Without any, all of the image is shown.
    """
    x0, y0, length = window(view)
    image = view.image if view.image.ndim == 3 else cv2.cvtColor(view.image, cv2.COLOR_GRAY2RGB)
    cut = _cut(image, x0, y0, length)
    smooth = cv2.INTER_AREA if length > side else cv2.INTER_CUBIC
    picture: Picture = np.asarray(cv2.resize(cut, (side, side), interpolation=smooth), np.uint8)
    thin = max([len(view.boxes), *(len(np.unique(labels)) for labels in _labels(view))]) > _MANY
    scale = side / length
    for x_min, y_min, x_max, y_max in view.boxes:
        # A box's pixels are inclusive, so its right and lower edges lie one pixel further.
        corners = np.array([x_min - x0, y_min - y0, x_max + 1 - x0, y_max + 1 - y0]) * scale
        _dashed_rectangle(picture, np.clip(np.rint(corners), 0, side - 1).astype(int), 1 if thin else 3)
    if view.masks is not None:
        _outline(picture, _cut(view.masks, x0, y0, length), PREDICTION, 4 if thin else 8, casing=2)
    if view.truth is not None:
        _outline(picture, _cut(view.truth, x0, y0, length), TRUTH, 2 if thin else 3)
    return picture


def window(view: View) -> tuple[int, int, int]:
    """Return x and y of the corner, and the side, of the square that is shown, in the image's pixels.

    It holds all boxes, truth and prediction with a margin, and does not exceed the image's longer side.
    """
    height, width = view.image.shape[:2]
    bounds = [(b[0], b[1], b[2] + 1, b[3] + 1) for b in view.boxes]
    for labels in _labels(view):
        if labels.any():
            rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
            bounds.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    if not bounds:
        bounds = [(0, 0, width, height)]
    low, high = np.min(bounds, axis=0)[:2], np.max(bounds, axis=0)[2:]
    longest = float((high - low).max())
    length = int(min(max(longest * (1 + 2 * _MARGIN), _LEAST), max(height, width)))
    corner = ((low + high - length) / 2).round().astype(int)
    # Within the image where it is large enough, around its middle where it is not.
    x, y = (
        int(np.clip(place, 0, limit - length)) if limit >= length else (limit - length) // 2
        for place, limit in zip(corner, (width, height), strict=True)
    )
    return x, y, length


def _labels(view: View) -> list[NDArray[Any]]:
    return [labels for labels in (view.masks, view.truth) if labels is not None]


def _cut(image: NDArray[Any], x: int, y: int, length: int) -> NDArray[Any]:
    """Return a square of an image, zeros beyond its borders."""
    square = np.zeros((length, length, *image.shape[2:]), image.dtype)
    height, width = image.shape[:2]
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + length, height), min(x + length, width)
    square[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
    return square


def _outline(picture: Picture, labels: NDArray[Any], colour: RGB, thickness: int, casing: int = 0) -> None:
    """Draw the outline of every label along its pixels' edges; all casings, in black, lie below all outlines."""
    large = cv2.resize(labels.astype(np.uint16), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    contours = [
        contour
        for label in np.unique(large[large > 0])
        for contour in cv2.findContours((large == label).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
    ]
    if casing:
        cv2.drawContours(picture, contours, -1, _BLACK, thickness + casing)
    cv2.drawContours(picture, contours, -1, colour, thickness)


def _dashed_rectangle(picture: Picture, corners: NDArray[np.int_], thickness: int) -> None:
    x0, y0, x1, y1 = corners.tolist()
    for start, end in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        way = (np.sign(end[0] - start[0]), np.sign(end[1] - start[1]))
        for dash, place in enumerate(range(0, length, _DASH)):
            last = min(place + _DASH, length)
            ends = [(int(start[0] + way[0] * at), int(start[1] + way[1] * at)) for at in (place, last)]
            cv2.line(picture, ends[0], ends[1], _BLACK if dash % 2 else BOX, thickness)
