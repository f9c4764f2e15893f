"""Pictures of masks over images: contours in colour, ground truth dashed, prompt boxes yellow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import to_uint8
from graysam.system.files import replacing

Picture = NDArray[np.uint8]

MIN_SIDE, MAX_SIDE = 512, 1536  # px, of an image's longest side as drawn; a volume's slices are drawn at 512
MAX_OBJECTS = 6  # panels of a volume's montage
_YELLOW, _WHITE, _BLACK = (255, 255, 0), (255, 255, 255), (0, 0, 0)
_GAP = 4  # px between panels
_DASH = 6  # px


def draw_overlay(
    image: NDArray[Any],
    segs: NDArray[Any],
    boxes: NDArray[Any] | None = None,
    gts: NDArray[Any] | None = None,
    *,
    caption: str = "",
) -> Picture:
    """Draw a case: for each panel the image with its prompts, and beside it the image with the masks.

    image: (H,W), (H,W,3) RGB or (D,H,W); other dtypes than uint8 are scaled by minimum and maximum for
    display. segs and gts: integers of the image's grid. boxes: (N,4) or (N,6), inclusive pixel indices.
    Returns uint8 RGB (h,w,3). An image makes one panel of at least 512 px; a volume one panel for each of up
    to 6 objects (evenly chosen among them), at the middle slice of the object in gts, else in its box, else
    in segs. Without any object: the image alone, or the volume's middle slice. Raises ValueError for shapes
    that do not belong together.
    """
    _check(image, segs, boxes, gts)
    image = to_uint8(image)
    if segs.ndim == 2:
        side = min(max(max(segs.shape), MIN_SIDE), MAX_SIDE)
        return _captioned(_panel(image, segs, boxes, gts, side), caption)
    panels = []
    for label, z in _slices(segs, boxes, gts):
        here = None if boxes is None else boxes[(boxes[:, 2] <= z) & (z <= boxes[:, 5])][:, [0, 1, 3, 4]]
        panel = _panel(image[z], segs[z], here, None if gts is None else gts[z], MIN_SIDE)
        panels.append(_captioned(panel, f"object {label}, slice {z}" if label else f"slice {z}"))
    return _captioned(_montage(panels), caption)


def write_overlay(
    path: str | Path,
    image: NDArray[Any],
    segs: NDArray[Any],
    boxes: NDArray[Any] | None = None,
    gts: NDArray[Any] | None = None,
    *,
    caption: str = "",
) -> None:
    """Write the picture of `draw_overlay` as PNG, under a temporary name that is renamed when complete.

    Raises ValueError as `draw_overlay` does; OSError as the file system does.
    """
    path = Path(path)
    picture = draw_overlay(image, segs, boxes, gts, caption=caption)
    encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    with replacing(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def label_colour(label: int) -> tuple[int, int, int]:
    """Return a label's RGB colour: always the same, neighbours far apart, never near the boxes' yellow."""
    hue = (
        80 + (label * 0.61803398875) % 1 * 310
    )  # degrees, 30 to 80 kept free; the golden ratio spreads any run of labels
    pixel = np.array([[[hue % 360, 0.8, 1.0]]], np.float32)
    red, green, blue = (cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255).astype(int).tolist()
    return red, green, blue


def _panel(
    image: NDArray[Any], segs: NDArray[Any], boxes: NDArray[Any] | None, gts: NDArray[Any] | None, side: int
) -> Picture:
    """Draw one slice, longest side `side` px: image with boxes | image with the contours of segs and gts."""
    height, width = segs.shape
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    rgb = image if image.ndim == 3 and image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    shown = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    prompts: Picture = shown.astype(np.uint8)
    masks = prompts.copy()
    for x_min, y_min, x_max, y_max in () if boxes is None else boxes:
        # The box's pixels are inclusive, so its right and lower edges lie one pixel further.
        start = int(x_min * scale), int(y_min * scale)
        end = int((x_max + 1) * scale) - 1, int((y_max + 1) * scale) - 1
        cv2.rectangle(prompts, start, end, _YELLOW, 1)
    _draw_contours(masks, segs, size, dashed=False)
    if gts is not None:
        _draw_contours(masks, gts, size, dashed=True)
    gap = np.zeros((size[1], _GAP, 3), np.uint8)
    return np.hstack([prompts, gap, masks])


def _draw_contours(canvas: Picture, labels: NDArray[Any], size: tuple[int, int], *, dashed: bool) -> None:
    """Draw each label's contour: in the label's colour, or dashed in white and black (seen on any image)."""
    scaled = cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    for label in np.unique(scaled[scaled > 0]).tolist():
        contours, _ = cv2.findContours((scaled == label).view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        if not dashed:
            cv2.drawContours(canvas, contours, -1, label_colour(label), 2)
            continue
        for contour in contours:
            for dash, start in enumerate(range(0, len(contour), _DASH)):
                cv2.polylines(canvas, [contour[start : start + _DASH]], False, (_WHITE, _BLACK)[dash % 2], 1)


def _slices(segs: NDArray[Any], boxes: NDArray[Any] | None, gts: NDArray[Any] | None) -> list[tuple[int, int]]:
    """(label, z) of up to 6 objects' middle slices; (0, middle) where there is no object."""
    middles = _middle_planes(segs)
    for label, box in enumerate(() if boxes is None else boxes, start=1):
        middles[label] = min(max(int((box[2] + box[5]) / 2), 0), len(segs) - 1)
    if gts is not None:
        middles |= _middle_planes(gts)
    labels = sorted(middles)
    if len(labels) > MAX_OBJECTS:
        labels = [labels[i] for i in np.linspace(0, len(labels) - 1, MAX_OBJECTS).round().astype(int)]
    return [(label, middles[label]) for label in labels] or [(0, len(segs) // 2)]


def _middle_planes(labels: NDArray[Any]) -> dict[int, int]:
    """Each label's middle slice among those that hold it."""
    planes: dict[int, list[int]] = {}
    for z, plane in enumerate(labels):
        for label in np.unique(plane[plane > 0]).tolist():
            planes.setdefault(label, []).append(z)
    return {label: found[len(found) // 2] for label, found in planes.items()}


def _montage(panels: Sequence[Picture]) -> Picture:
    """Lay panels out in two columns (one panel: as it is), each padded to the largest."""
    height = max(panel.shape[0] for panel in panels) + _GAP
    width = max(panel.shape[1] for panel in panels) + _GAP
    padded = [np.pad(panel, ((0, height - panel.shape[0]), (0, width - panel.shape[1]), (0, 0))) for panel in panels]
    if len(padded) == 1:
        return padded[0]
    if len(padded) % 2:
        padded.append(np.zeros_like(padded[0]))
    return np.vstack([np.hstack(padded[i : i + 2]) for i in range(0, len(padded), 2)])


def _captioned(picture: Picture, caption: str) -> Picture:
    """Put a line of text above; text that is too long is cut, and what OpenCV's font lacks becomes `?`."""
    if not caption:
        return picture
    text = caption.encode("ascii", "replace").decode()
    while len(text) > 4 and cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0] > picture.shape[1] - 8:
        text = text[:-4] + "..."
    strip = np.full((22, picture.shape[1], 3), _BLACK, np.uint8)
    cv2.putText(strip, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _WHITE, 1, cv2.LINE_AA)
    return np.vstack([strip, picture])


def _check(image: NDArray[Any], segs: NDArray[Any], boxes: NDArray[Any] | None, gts: NDArray[Any] | None) -> None:
    grid = image.shape[:2] if segs.ndim == 2 else image.shape
    if segs.ndim not in (2, 3) or image.ndim not in (segs.ndim, 3) or segs.shape != grid or not segs.size:
        raise ValueError(f"segs have shape {segs.shape}, the image {image.shape}; required: the same grid, 2D or 3D")
    if gts is not None and gts.shape != segs.shape:
        raise ValueError(f"gts have shape {gts.shape}, segs {segs.shape}; required: the same grid")
    columns = 4 if segs.ndim == 2 else 6
    if boxes is not None and boxes.shape[1:] != (columns,):
        raise ValueError(f"boxes have shape {boxes.shape}; required: (N,{columns})")
