"""The 14 cases of the paper's Table 5, at their sizes and numbers of objects, made from real MR.

The challenge's own files cannot be had; times depend on sizes, boxes and slices, not on what is seen. Every picture
comes from the MNI152 T1 brain inside the pip package nilearn: volumes are the brain resampled, images are mosaics of
its slices. Boxes surround the brain, its halves and, in volumes, the white matter of its quarters.

The table does not say over how many slices the objects of a volume reach. That follows from its times: LiteMedSAM
encodes once per object and slice, and takes 0.40 s for one small image (2DBox_US_0525), so that a volume's seconds over
0.40 s are its objects' slices in all, e.g. 210.98 s -> 527 slices of 6 objects.
"""

import math
from dataclasses import dataclass
from functools import cache, partial

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.benchmarking.cases import BenchmarkCase, CaseSource
from graysam.data.demo import load_template, template_paths

UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]

ONE_IMAGE_S = 0.40  # the paper's baseline on one small image with one box

# Of six objects: length along z and distance of the middle from the common middle, both in mean lengths.
_LENGTHS = (1.5, 1.25, 1.05, 0.9, 0.75, 0.55)
_MIDDLES = (0.0, 0.15, -0.15, 0.4, -0.4, 0.6)
_COLOUR_GAP = 1  # slices between the colours of an image


@dataclass(frozen=True)
class PaperCase:
    """A row of Table 5; seconds of the baseline (LiteMedSAM) and of the proposed model."""

    name: str
    shape: tuple[int, int, int]
    objects: int
    baseline_s: float
    proposed_s: float

    @property
    def object_slices(self) -> int:
        """Slices of a volume summed over its objects."""
        return max(self.objects, round(self.baseline_s / ONE_IMAGE_S))


TABLE_5 = (
    PaperCase("3DBox_CT_0566", (287, 512, 512), 6, 210.98, 51.85),
    PaperCase("3DBox_CT_0888", (237, 512, 512), 6, 53.35, 11.22),
    PaperCase("3DBox_CT_0860", (246, 512, 512), 1, 7.50, 2.51),
    PaperCase("3DBox_MR_0621", (115, 400, 400), 6, 83.16, 16.92),
    PaperCase("3DBox_MR_0121", (64, 290, 320), 6, 51.20, 9.84),
    PaperCase("3DBox_MR_0179", (84, 512, 512), 1, 6.92, 1.6),
    PaperCase("3DBox_PET_0001", (264, 200, 200), 1, 3.50, 0.78),
    PaperCase("2DBox_US_0525", (256, 256, 3), 1, 0.40, 0.11),
    PaperCase("2DBox_X-Ray_0053", (320, 640, 3), 34, 0.90, 0.72),
    PaperCase("2DBox_Dermoscopy_0003", (3024, 4032, 3), 1, 1.41, 2.09),
    PaperCase("2DBox_Endoscopy_0086", (480, 560, 3), 1, 0.43, 0.09),
    PaperCase("2DBox_Fundus_0003", (2048, 2048, 3), 1, 0.72, 0.38),
    PaperCase("2DBox_Microscope_0008", (1536, 2040, 3), 19, 1.05, 0.66),
    PaperCase("2DBox_Microscope_0016", (1920, 2560, 3), 241, 6.27, 6.19),
)
_GREY = ("US", "X-Ray")  # images whose three channels are equal


def paper_cases() -> list[CaseSource]:
    """Return the 14 cases; building one raises ValueError where nilearn's template is missing."""
    return [CaseSource(case.name, partial(build, case)) for case in TABLE_5]


def build(case: PaperCase) -> BenchmarkCase:
    """Make a case: the same arrays every time.

    Raises:
        ValueError: nilearn or its template is missing.
    """
    is_volume = case.name.startswith("3D")
    image, boxes = _volume(case) if is_volume else _image(case)
    paper_s = (case.baseline_s, case.proposed_s)
    return BenchmarkCase(case.name, image, boxes, whole_shape=image.shape, paper_s=paper_s)


@dataclass(frozen=True, eq=False)
class _Brain:
    """uint8 T1, and where brain and white matter are; all (z,y,x), cut to the brain and a margin."""

    t1: UInt8
    brain: Bool
    white: Bool

    def structure(self, index: int) -> Bool:
        """Return one of six: the brain, its left and right half, and the white matter of three of its quarters."""
        mask = (self.brain if index < 3 else self.white).copy()
        _, front, middle = (side // 2 for side in mask.shape)
        if index in (1, 3, 5):
            mask[:, :, middle:] = False
        elif index in (2, 4):
            mask[:, :, :middle] = False
        if index == 3:
            mask[:, front:] = False
        elif index in (4, 5):
            mask[:, :front] = False
        return mask


@cache
def _brain() -> _Brain:
    t1, maps = load_template(template_paths())
    brain, white = maps[2] > 0, maps[1] > 0
    margin = 6
    inside = tuple(
        slice(max(int(where.min()) - margin, 0), int(where.max()) + margin + 1) for where in np.nonzero(brain)
    )
    return _Brain(t1[inside], brain[inside], white[inside])


# --------------------------------------------------------------------------------------------------- volumes


def _volume(case: PaperCase) -> tuple[UInt8, NDArray[np.int64]]:
    source = _brain()
    depth, height, width = case.shape
    positions = np.linspace(0, len(source.t1) - 1, depth)  # of the slices, on the source's
    volume = np.zeros(case.shape, np.uint8)
    for z, position in enumerate(positions):
        below = int(position)
        above = min(below + 1, len(source.t1) - 1)
        mixed = cv2.addWeighted(source.t1[below], 1 - (position - below), source.t1[above], position - below, 0)
        _place(mixed, volume[z])
    filled = np.flatnonzero(source.brain.any(axis=(1, 2)))
    ends = np.searchsorted(positions, [filled[0], filled[-1]])
    boxes = []
    for index, (z_min, z_max) in enumerate(_ranges(case, int(ends[0]), int(ends[1]))):
        mask = source.structure(index)[int(positions[z_min]) : math.ceil(positions[z_max]) + 1]
        x_min, y_min, x_max, y_max = _box(_placed(np.asarray(mask.any(axis=0)), height, width))
        boxes.append([x_min, y_min, z_min, x_max, y_max, z_max])
    return volume, np.array(boxes, np.int64)


def _ranges(case: PaperCase, first: int, last: int) -> list[tuple[int, int]]:
    """Return z_min and z_max of every object within the brain's slices first..last; they share slices."""
    if case.objects == 1:
        lengths, middles = [case.object_slices], [0.0]
    else:
        mean = case.object_slices / case.objects
        lengths = [max(1, round(factor * mean)) for factor in _LENGTHS]
        lengths[0] += case.object_slices - sum(lengths)
        middles = [factor * mean for factor in _MIDDLES]
    ranges = []
    for length, middle in zip(lengths, middles, strict=True):
        length = min(length, last - first + 1)
        z_min = round((first + last) / 2 + middle - length / 2)
        z_min = min(max(z_min, first), last - length + 1)
        ranges.append((z_min, z_min + length - 1))
    return ranges


# ---------------------------------------------------------------------------------------------------- images


def _image(case: PaperCase) -> tuple[UInt8, NDArray[np.int64]]:
    """Return a mosaic of axial slices with a box around each half of the brain; one object is the whole brain."""
    source = _brain()
    height, width, _ = case.shape
    tiles = math.ceil(case.objects / 2)
    rows = max(1, round(math.sqrt(tiles * height / width)))
    columns = math.ceil(tiles / rows)
    # From the lowest to the highest slice with much of both kinds of matter; a single tile takes the middle.
    shares = np.linspace(0.2, 0.85, rows * columns) if tiles > 1 else [0.55]
    gap = 0 if case.name.split("_")[1] in _GREY else _COLOUR_GAP
    image = np.zeros(case.shape, np.uint8)
    boxes: list[list[int]] = []
    for tile, share in enumerate(shares):
        z = int(share * (len(source.t1) - 1))
        row, column = divmod(tile, columns)
        top, bottom = row * height // rows, (row + 1) * height // rows
        left, right = column * width // columns, (column + 1) * width // columns
        colours = source.t1[[z - gap, z, z + gap]].transpose(1, 2, 0)
        _place(np.ascontiguousarray(colours), image[top:bottom, left:right])
        brain = source.brain[z]
        middle = brain.shape[1] // 2
        halves = (brain & (np.arange(brain.shape[1]) < middle), brain & (np.arange(brain.shape[1]) >= middle))
        for mask in halves if case.objects > 1 else (brain,):
            x_min, y_min, x_max, y_max = _box(_placed(mask, bottom - top, right - left))
            boxes.append([left + x_min, top + y_min, left + x_max, top + y_max])
    return image, np.array(boxes[: case.objects], np.int64)


# -------------------------------------------------------------------------------------------------- geometry


def _placed(mask: Bool, height: int, width: int) -> UInt8:
    frame = np.zeros((height, width), np.uint8)
    _place(mask.astype(np.uint8), frame, interpolation=cv2.INTER_NEAREST)
    return frame


def _place(picture: UInt8, frame: UInt8, interpolation: int = cv2.INTER_LINEAR) -> None:
    """Draw a picture into the middle of a frame, as large as it fits."""
    height, width = picture.shape[:2]
    scale = min(frame.shape[0] / height, frame.shape[1] / width)
    rows, columns = int(height * scale), int(width * scale)
    top, left = (frame.shape[0] - rows) // 2, (frame.shape[1] - columns) // 2
    frame[top : top + rows, left : left + columns] = cv2.resize(picture, (columns, rows), interpolation=interpolation)


def _box(mask: UInt8) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, x + width - 1, y + height - 1
