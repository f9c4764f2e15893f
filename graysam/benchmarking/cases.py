"""What is timed: cases from a folder, and volumes cut down to fewer slices."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import to_uint8
from graysam.io.cases import read_gts, read_input_case
from graysam.io.image import modality_of
from graysam.reporting.schemas import BenchmarkedCase


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

    Building a case raises what the readers of cases raise.

    Raises:
        ValueError: no case, or one without masks in `gts`.
    """
    images, gts = folder / "imgs", folder / "gts"
    has_gts = images.is_dir() and gts.is_dir()
    paths = sorted((images if has_gts else folder).glob("*.npz"))
    if not paths:
        raise ValueError(f"{folder} has no .npz file; required: a folder of NPZ files with imgs and boxes")
    if has_gts and (missing := [path.name for path in paths if not (gts / path.name).is_file()]):
        raise ValueError(f"{gts} has no {missing[0]}; required: the masks of every case")
    return {path.stem: partial(_read, path, gts / path.name if has_gts else None) for path in paths}


def _read(path: Path, gts_path: Path | None) -> BenchmarkCase:
    case = read_input_case(path)
    if case.boxes is None or not len(case.boxes):
        raise ValueError(f"{path}: no boxes, so nothing to time")
    gts, spacing_mm = (None, None) if gts_path is None else read_gts(gts_path)
    spacing_mm = spacing_mm or case.image.spacing_mm
    return BenchmarkCase(path.stem, to_uint8(case.image.pixels), case.boxes, gts=gts, spacing_mm=spacing_mm)


def choose_cases(sources: Sources, words: Collection[str]) -> Sources:
    """Return the cases whose name holds one of the words; no words take all.

    Raises:
        ValueError: a word that no name holds.
    """
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
