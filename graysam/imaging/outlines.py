"""Lines and captions on pictures: outlines of masks, boxes, dashes, colours of labels.

Paths are float64 (n,2) x, y in pixels of the picture; whole numbers are edges between pixels. scikit-image is
imported on first use.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

Picture = NDArray[np.uint8]
RGB = tuple[int, int, int]
Path = NDArray[np.float64]

YELLOW: RGB = (255, 255, 0)
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)

_DASH = 12  # px
_CAPTION_HEIGHT = 22  # px


def label_colour(label: int) -> RGB:
    """Return the RGB colour of a label: distinct between neighbouring labels, never near the yellow of the boxes."""
    # Degrees, without 30 to 80; multiples of the golden ratio are spread evenly.
    hue = 80 + (label * 0.61803398875) % 1 * 310
    pixel = np.array([[[hue % 360, 0.8, 1.0]]], np.float32)
    red, green, blue = (cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255).astype(int).tolist()
    return red, green, blue


def outlines(labels: NDArray[Any], scale: float) -> Iterator[tuple[int, Path]]:
    """Yield (label, closed path) of every outline of integer labels (H,W), drawn `scale` times as large."""
    from skimage.measure import find_contours

    for label, place in enumerate(find_objects(labels.astype(np.int32)), start=1):
        if place is not None:
            # The border of zeros closes outlines at the image's ends and moves pixels by one; their centres lie at
            # whole numbers here, half a pixel from their edges.
            offset = place[1].start - 0.5, place[0].start - 0.5
            for path in find_contours(np.pad(labels[place] == label, 1), 0.5):
                yield label, (path[:, ::-1] + offset) * scale


def box_path(box: NDArray[Any], scale: float) -> Path:
    """Return the closed path around a box (4,) of inclusive pixel indices, drawn `scale` times as large."""
    x_min, y_min, x_max, y_max = (*box[:2], *(box[2:] + 1))
    corners = [(x_min, y_min), (x_max, y_min), (x_max, y_max), (x_min, y_max), (x_min, y_min)]
    return np.array(corners, np.float64) * scale


def draw_paths(picture: Picture, paths: Iterable[Path], colour: RGB, thickness: int) -> None:
    """Draw paths into a picture; what lies beyond its borders is moved to them."""
    last = np.array(picture.shape[1::-1]) - 1
    points = [np.rint(path).clip(0, last).astype(np.int32) for path in paths]
    cv2.polylines(picture, points, False, colour, thickness)


def draw_dashed(picture: Picture, path: Path, colours: tuple[RGB, RGB], thickness: int) -> None:
    """Draw a path in dashes of two alternating colours."""
    travelled = np.concatenate([[0], np.hypot(*np.diff(path, axis=0).T).cumsum()])
    at = np.arange(travelled[-1] + 1)
    points = np.stack([np.interp(at, travelled, path[:, axis]) for axis in (0, 1)], axis=1)
    for dash, start in enumerate(range(0, len(points), _DASH)):
        draw_paths(picture, [points[start : start + _DASH + 1]], colours[dash % 2], thickness)


def add_caption(picture: Picture, caption: str) -> Picture:
    """Put a line of text above; text that is too long is cut, and characters outside ASCII become `?`."""
    if not caption:
        return picture
    text = caption.encode("ascii", "replace").decode()
    while len(text) > 4 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] > picture.shape[1] - 8:
        text = text[:-4] + "..."
    strip = np.full((_CAPTION_HEIGHT, picture.shape[1], 3), BLACK, np.uint8)
    cv2.putText(strip, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
    return np.vstack([strip, picture])
