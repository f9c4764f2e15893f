"""What is timed: the 14 cases of the paper's Table 5, made from real MR, or the cases of a folder.

The challenge's files are not available; times depend on sizes, boxes and slices, not on the content. Every picture
comes from the MNI152 T1 brain inside the pip package nilearn: volumes are the brain resampled, images are mosaics of
its axial slices. Boxes surround the brain, its halves and its quarters.

The table does not give the slices of a volume's objects. They follow from its times: LiteMedSAM encodes once per object
and slice and takes 0.40 s for one small image (2DBox_US_0525), so a volume's seconds over 0.40 s are the slices of all
objects, e.g. 210.98 s -> 527 slices of 6 objects.
"""

import csv
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from graysam.data.demo import load_template
from graysam.imaging.canvas import to_uint8
from graysam.io.cases import read_gts, read_input_case
from graysam.io.image import modality_of
from graysam.io.listing import case_path, case_paths
from graysam.reporting.schemas import BenchmarkedCase
from graysam.system.environment import check_extra

UInt8 = NDArray[np.uint8]

# Of six objects: part of the brain (top, bottom, left, right), and length along z and distance of the middle from the
# common middle, both in mean lengths.
_PARTS = ((0, 1, 0, 1), (0, 1, 0, 0.5), (0, 1, 0.5, 1), (0, 0.5, 0, 0.5), (0.5, 1, 0.5, 1), (0.5, 1, 0, 0.5))
_LENGTHS = (1.5, 1.25, 1.05, 0.9, 0.75, 0.55)
_MIDDLES = (0.0, 0.15, -0.15, 0.4, -0.4, 0.6)


@dataclass(frozen=True, eq=False)
class BenchmarkCase:
    """One case in memory.

    Attributes:
        name: as in `2DBox_<Modality>_<id>`.
        image: uint8 (H,W), (H,W,3) or (D,H,W).
        boxes: integers (N,4), or (N,6) with z_max inclusive, as in a case file.
        stride: every stride-th slice was kept.
        paper_s: seconds of the baseline and of the proposed model in the paper's Table 5, for its cases.
        gts: masks of the same grid, where known.
        spacing_mm: z, y, x, where known.
    """

    name: str
    image: NDArray[np.uint8]
    boxes: NDArray[Any]
    stride: int = 1
    paper_s: tuple[float, float] | None = None
    gts: NDArray[Any] | None = None
    spacing_mm: tuple[float, float, float] | None = None

    def describe(self, whole_shape: Sequence[int]) -> BenchmarkedCase:
        """Return what tables show of the case; `whole_shape` is the image's before slices were left out."""
        boxes = self.boxes
        return BenchmarkedCase(
            shape=self.image.shape,
            whole_shape=whole_shape,
            stride=self.stride,
            objects=len(boxes),
            object_slices=int((boxes[:, 5] - boxes[:, 2] + 1).sum()) if boxes.shape[1] == 6 else len(boxes),
            paper_s=self.paper_s,
            modality=modality_of(self.name),
        )


Sources = Mapping[str, Callable[[], BenchmarkCase]]  # big volumes come into memory one after the other


def folder_cases(folder: Path) -> Sources:
    """Return the cases of a folder of input NPZ, by name; in a folder with `imgs` and `gts`, with their masks.

    Raises:
        ValueError: no case, or one without masks in `gts`; damage, when a case is built.
    """
    images, gts = folder / "imgs", folder / "gts"
    has_gts = images.is_dir() and gts.is_dir()
    paths = case_paths(images if has_gts else folder, "--input")
    if has_gts and (missing := [path.name for path in paths if not case_path(gts, path.stem).is_file()]):
        raise ValueError(f"{gts} has no {missing[0]}; required: the masks of every case")
    return {path.stem: partial(_read, path, case_path(gts, path.stem) if has_gts else None) for path in paths}


def _read(path: Path, gts_path: Path | None) -> BenchmarkCase:
    case = read_input_case(path)
    if case.boxes is None or not len(case.boxes):
        raise ValueError(f"{path}: no boxes, so nothing to time")
    gts, spacing_mm = (None, None) if gts_path is None else read_gts(gts_path)
    spacing_mm = spacing_mm or case.image.spacing_mm
    return BenchmarkCase(path.stem, to_uint8(case.image.pixels), case.boxes, gts=gts, spacing_mm=spacing_mm)


def choose_cases(sources: Sources, words: Collection[str]) -> Sources:
    """Return the cases whose name holds one of the words, all for no words; raise ValueError for a word in no name."""
    if unknown := [word for word in words if not any(word in name for name in sources)]:
        raise ValueError(f"no case is named {', '.join(unknown)}; available are {', '.join(list(sources)[:20])}")
    return {name: build for name, build in sources.items() if not words or any(word in name for word in words)}


def cap_slices(case: BenchmarkCase, limit: float) -> BenchmarkCase:
    """Keep every n-th slice of a volume and its masks, so that boxes need at most about `limit` slices.

    Boxes keep their share of the depth, so that objects overlap as in the whole volume; a box between two kept slices
    takes the nearest one. Images are returned unchanged.
    """
    if case.boxes.shape[1] == 4:
        return case
    first, last = case.boxes[:, 2], case.boxes[:, 5]
    slices = np.arange(len(case.image))[:, None]
    needed = np.flatnonzero(((first <= slices) & (slices <= last)).any(axis=1))
    if len(needed) <= limit:
        return case
    stride = math.ceil(len(needed) / limit)
    kept = np.arange(int(needed[0]) % stride, len(case.image), stride)
    low, high = np.searchsorted(kept, first, "left"), np.searchsorted(kept, last, "right") - 1
    between = low > high
    low[between] = high[between] = np.clip(low[between], 0, len(kept) - 1)
    boxes = case.boxes.copy()
    boxes[:, 2], boxes[:, 5] = low, high
    spacing = case.spacing_mm
    return replace(
        case,
        image=np.ascontiguousarray(case.image[kept]),
        boxes=boxes,
        stride=stride,
        gts=None if case.gts is None else case.gts[kept],
        spacing_mm=spacing and (spacing[0] * stride, *spacing[1:]),
    )


# ------------------------------------------------------------------ the paper's cases
class PaperCase(NamedTuple):
    """A row of Table 5; seconds of the baseline (LiteMedSAM) and of the proposed model."""

    name: str
    shape: tuple[int, ...]
    objects: int
    baseline_s: float
    proposed_s: float


def table_5() -> list[PaperCase]:
    """Return the rows of the paper's Table 5."""
    with Path(__file__).with_name("paper_table5.csv").open(newline="") as file:
        return [
            PaperCase(name, tuple(map(int, shape.split("x"))), int(objects), float(baseline_s), float(proposed_s))
            for name, shape, objects, baseline_s, proposed_s in list(csv.reader(file))[1:]
        ]


def paper_cases() -> Sources:
    """Return the 14 cases; raise ValueError where nilearn, whose brain they are made from, is missing."""
    check_extra("demo")
    return {case.name: partial(build, case) for case in table_5()}


def build(case: PaperCase) -> BenchmarkCase:
    """Make a case, deterministically."""
    image, boxes = _volume(case) if case.name.startswith("3D") else _mosaic(case)
    return BenchmarkCase(case.name, image, boxes, paper_s=(case.baseline_s, case.proposed_s))


@cache
def _brain() -> tuple[UInt8, UInt8]:
    """Return T1 and the brain's mask, uint8 (z,y,x), cut to the brain and a margin."""
    t1, maps = load_template()
    inside = tuple(slice(max(int(found.min()) - 6, 0), int(found.max()) + 7) for found in np.nonzero(maps[2]))
    return t1[inside], (maps[2][inside] > 0).astype(np.uint8)


def _volume(case: PaperCase) -> tuple[UInt8, NDArray[np.int64]]:
    """Resample the brain to the case's shape, and box parts of it over ranges of slices, which overlap."""
    t1, brain = _brain()
    depth, height, width = case.shape
    planes = zoom(t1, (depth / len(t1), 1, 1), order=1)
    volume = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in planes])
    positions = np.linspace(0, len(t1) - 1, depth)  # of the planes in t1
    filled = np.flatnonzero(brain.any(axis=(1, 2)))
    first, last = np.searchsorted(positions, [filled[0], filled[-1]]).tolist()
    object_slices = max(case.objects, round(case.baseline_s / 0.40))
    mean = object_slices / case.objects
    lengths = [max(1, round(factor * mean)) for factor in _LENGTHS[: case.objects]]
    lengths[0] += object_slices - sum(lengths)
    boxes = []
    for part, wanted, middle in zip(_PARTS, lengths, _MIDDLES, strict=False):
        length = min(wanted, last - first + 1)
        z_min = round((first + last) / 2 + middle * mean - length / 2)
        z_min = min(max(z_min, first), last - length + 1)
        z_max = z_min + length - 1
        mask = brain[int(positions[z_min]) : math.ceil(positions[z_max]) + 1].max(axis=0)
        x_min, y_min, x_max, y_max = _box(mask, height, width, part)
        boxes.append([x_min, y_min, z_min, x_max, y_max, z_max])
    return volume, np.array(boxes, np.int64)


def _mosaic(case: PaperCase) -> tuple[UInt8, NDArray[np.int64]]:
    """Tile axial slices, and box each half of the brain, or the whole brain for one object.

    The three channels are neighbouring slices; in US and X-Ray, which are grey, they are equal.
    """
    t1, brain = _brain()
    height, width, _ = case.shape
    tiles = math.ceil(case.objects / 2)
    rows = max(1, round(math.sqrt(tiles * height / width)))
    columns = math.ceil(tiles / rows)
    gap = 0 if case.name.split("_")[1] in ("US", "X-Ray") else 1
    # From the lowest to the highest slice with much tissue; a single tile takes the middle.
    shares = np.linspace(0.2, 0.85, rows * columns) if tiles > 1 else [0.55]
    image = np.zeros(case.shape, np.uint8)
    boxes = []
    for tile, share in enumerate(shares):
        z = int(share * (len(t1) - 1))
        row, column = divmod(tile, columns)
        top, bottom = row * height // rows, (row + 1) * height // rows
        left, right = column * width // columns, (column + 1) * width // columns
        colours = np.ascontiguousarray(t1[[z - gap, z, z + gap]].transpose(1, 2, 0))
        image[top:bottom, left:right] = cv2.resize(colours, (right - left, bottom - top))
        for part in _PARTS[1:3] if case.objects > 1 else _PARTS[:1]:
            x_min, y_min, x_max, y_max = _box(brain[z], bottom - top, right - left, part)
            boxes.append([left + x_min, top + y_min, left + x_max, top + y_max])
    return image, np.array(boxes[: case.objects], np.int64)


def _box(mask: UInt8, height: int, width: int, part: tuple[float, ...]) -> tuple[int, int, int, int]:
    """Return the box around a part of a mask that is resized to (height, width)."""
    top, bottom, left, right = np.multiply(part, (height, height, width, width)).astype(int)
    resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    x, y, columns, rows = cv2.boundingRect(resized[top:bottom, left:right])
    return left + x, top + y, left + x + columns - 1, top + y + rows - 1
