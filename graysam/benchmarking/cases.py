"""What is timed: cases from a folder, and volumes cut down to fewer slices."""

import math
from collections.abc import Callable, Iterable, Mapping
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
        whole_shape: of the image before slices were left out.
        stride: every stride-th slice was kept.
        paper_s: seconds of the baseline and of the proposed model in the paper's Table 5, for its cases.
        gts: masks of the same grid, where known.
        spacing_mm: z, y, x, where known.
    """

    name: str
    image: NDArray[np.uint8]
    boxes: NDArray[Any]
    whole_shape: tuple[int, ...]
    stride: int = 1
    paper_s: tuple[float, float] | None = None
    gts: NDArray[Any] | None = None
    spacing_mm: tuple[float, float, float] | None = None

    @property
    def is_volume(self) -> bool:
        """Whether the boxes are 3D."""
        return self.boxes.shape[1] == 6

    @property
    def visited(self) -> NDArray[np.intp]:
        """Indices of the slices that some box needs; [0] for an image."""
        if not self.is_volume:
            return np.zeros(1, np.intp)
        slices = np.arange(len(self.image))
        return np.flatnonzero(((self.boxes[:, 2, None] <= slices) & (slices <= self.boxes[:, 5, None])).any(axis=0))

    @property
    def object_slices(self) -> int:
        """Masks to make: slices summed over the boxes."""
        return int((self.boxes[:, 5] - self.boxes[:, 2] + 1).sum()) if self.is_volume else len(self.boxes)

    def write(self, path: Path) -> None:
        """Write the case as the challenge's input NPZ, compressed."""
        arrays: dict[str, Any] = {"imgs": self.image, "boxes": self.boxes}
        if self.is_volume:
            arrays["spacing"] = np.array(self.spacing_mm or (1.0, 1.0, 1.0))
        np.savez_compressed(path, **arrays)

    def describe(self) -> BenchmarkedCase:
        """Return what tables show of the case."""
        return BenchmarkedCase(
            shape=list(self.image.shape),
            whole_shape=list(self.whole_shape),
            stride=self.stride,
            objects=len(self.boxes),
            object_slices=self.object_slices,
            paper_s=None if self.paper_s is None else list(self.paper_s),
            modality=modality_of(self.name),
        )


Sources = Mapping[str, Callable[[], BenchmarkCase]]  # big volumes come into memory one after the other


def folder_cases(images: Path, gts: Path | None) -> Sources:
    """Return the cases of a folder of input NPZ, sorted by name; building one raises what the readers of cases raise.

    Args:
        images: the folder, or one that holds the folders `imgs` and `gts`.
        gts: folder of NPZ of the same names with the masks.

    Raises:
        ValueError: a path that is not a directory, no case, or a case without masks in `gts`.
    """
    if gts is None and (images / "imgs").is_dir() and (images / "gts").is_dir():
        images, gts = images / "imgs", images / "gts"
    for folder in (images, gts):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder} is not a directory; give a folder of case files (.npz)")
    paths = sorted(images.glob("*.npz"))
    if not paths:
        raise ValueError(f"{images} holds no .npz file; give a folder of NPZ files with imgs and boxes")
    missing = [path.name for path in paths if gts is not None and not (gts / path.name).is_file()]
    if missing:
        raise ValueError(f"{gts} lacks the masks of {len(missing)} of {len(paths)} cases, first {missing[0]}")
    return {path.stem: partial(_read, path, None if gts is None else gts / path.name) for path in paths}


def _read(path: Path, gts_path: Path | None) -> BenchmarkCase:
    case = read_input_case(path)
    if case.boxes is None or not len(case.boxes):
        raise ValueError(f"{path}: no boxes, so nothing to time")
    gts, spacing_mm = (None, None) if gts_path is None else read_gts(gts_path)
    pixels = to_uint8(case.image.pixels)
    spacing_mm = spacing_mm or case.image.spacing_mm
    return BenchmarkCase(path.stem, pixels, case.boxes, pixels.shape, gts=gts, spacing_mm=spacing_mm)


def choose_cases(sources: Sources, words: Iterable[str]) -> Sources:
    """Return the cases whose name holds one of the words; no words take all.

    Raises:
        ValueError: a word that no name holds.
    """
    words = list(words)
    unknown = [word for word in words if not any(word in name for name in sources)]
    if unknown:
        raise ValueError(f"no case is named {', '.join(unknown)}; available are {', '.join(list(sources)[:20])}")
    return {name: build for name, build in sources.items() if not words or any(word in name for word in words)}


def cap_slices(case: BenchmarkCase, limit: float) -> BenchmarkCase:
    """Keep every n-th slice of a volume and its masks, so that boxes need at most about `limit` slices.

    Boxes keep their share of the depth, so that objects overlap as in the whole volume; a box between two kept slices
    takes the nearest one. Images are returned unchanged.
    """
    visited = case.visited
    if not case.is_volume or len(visited) <= limit:
        return case
    stride = math.ceil(len(visited) / limit)
    kept = np.arange(int(visited[0]) % stride, len(case.image), stride)
    boxes = case.boxes.copy()
    low = np.searchsorted(kept, case.boxes[:, 2], "left")
    high = np.searchsorted(kept, case.boxes[:, 5], "right") - 1
    between = low > high
    low[between] = high[between] = np.clip(low[between], 0, len(kept) - 1)
    boxes[:, 2], boxes[:, 5] = low, high
    spacing = case.spacing_mm
    return replace(
        case,
        image=np.ascontiguousarray(case.image[kept]),
        boxes=boxes,
        stride=stride,
        gts=None if case.gts is None else case.gts[kept],
        spacing_mm=None if spacing is None else (spacing[0] * stride, *spacing[1:]),
    )
