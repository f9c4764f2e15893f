"""What is timed: cases from a folder, and volumes cut down to fewer slices."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import to_uint8
from graysam.io.cases import read_gts, read_input_case


@dataclass(frozen=True, eq=False)
class BenchmarkCase:
    """One case in memory.

    image: uint8 (H,W), (H,W,3) or (D,H,W); boxes: integers (N,4) or (N,6), as in a case file, z_max inclusive.
    whole_shape: of the image before slices were left out; stride: every how many-th slice was kept.
    paper_s: seconds of the baseline and of the proposed model in the paper's Table 5, where the case is one of its.
    gts, spacing_mm: masks of the same grid and voxel sides z, y, x, where known.
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
    def visited(self) -> int:
        """Slices that some box needs; 1 for an image."""
        return int(_visited(self.boxes, len(self.image)).sum()) if self.is_volume else 1

    @property
    def object_slices(self) -> int:
        """Masks to be made: slices summed over the boxes."""
        return int((self.boxes[:, 5] - self.boxes[:, 2] + 1).sum()) if self.is_volume else len(self.boxes)

    def write(self, path: Path) -> None:
        """Write the case as the challenge's input NPZ, compressed."""
        arrays: dict[str, Any] = {"imgs": self.image, "boxes": self.boxes}
        if self.is_volume:
            arrays["spacing"] = np.array(self.spacing_mm or (1.0, 1.0, 1.0))
        np.savez_compressed(path, **arrays)


@dataclass(frozen=True)
class CaseSource:
    """A case that is not built yet: big volumes come into memory one after the other."""

    name: str
    build: Callable[[], BenchmarkCase]


def folder_cases(images: Path, gts: Path | None) -> list[CaseSource]:
    """Return the cases of a folder of input NPZ, sorted by name, with masks from a folder of NPZ of the same names.

    A folder that holds the folders `imgs` and `gts` is taken for both. Raises ValueError where there is no folder, no
    case or, with `gts`, no masks of a case; building a source raises what the readers of cases raise.
    """
    if gts is None and (images / "imgs").is_dir() and (images / "gts").is_dir():
        images, gts = images / "imgs", images / "gts"
    for folder in (images, gts):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give a folder of case files (.npz)")
    paths = sorted(images.glob("*.npz"))
    if not paths:
        raise ValueError(f"{images} holds no .npz file; give a folder of NPZ files with imgs and boxes")
    missing = [path.name for path in paths if gts is not None and not (gts / path.name).is_file()]
    if missing:
        raise ValueError(f"{gts} lacks the masks of {len(missing)} of {len(paths)} cases, first {missing[0]}")
    return [CaseSource(path.stem, partial(_read, path, None if gts is None else gts / path.name)) for path in paths]


def _read(path: Path, gts_path: Path | None) -> BenchmarkCase:
    case = read_input_case(path)
    if case.boxes is None or not len(case.boxes):
        raise ValueError(f"{path}: no boxes, so nothing to time")
    gts, spacing_mm = (None, case.image.spacing_mm) if gts_path is None else read_gts(gts_path)
    image = to_uint8(case.image.pixels)
    return BenchmarkCase(
        case.image.name,
        image,
        case.boxes,
        whole_shape=image.shape,
        gts=gts,
        spacing_mm=spacing_mm or case.image.spacing_mm,
    )


def choose(sources: Sequence[CaseSource], wanted: Iterable[str]) -> list[CaseSource]:
    """Return the sources whose name holds one of the wanted words, in the sources' order; no words take all.

    Raises ValueError for a word that no name holds.
    """
    words = list(wanted)
    lost = [word for word in words if not any(word in source.name for source in sources)]
    if lost:
        names = ", ".join(source.name for source in sources[:20])
        raise ValueError(f"no case is named {', '.join(lost)}; there are {names}")
    return [source for source in sources if not words or any(word in source.name for word in words)]


def cap_slices(case: BenchmarkCase, most: int | None) -> BenchmarkCase:
    """Keep every n-th slice of a volume, so that boxes need at most about `most` slices; images pass.

    Boxes keep their share of the depth, so that objects overlap as in the whole volume; a box between two kept slices
    takes the nearest one. None keeps all slices. Masks go with their slices.
    """
    if most is None or not case.is_volume or case.visited <= most:
        return case
    stride = math.ceil(case.visited / most)
    first = int(np.flatnonzero(_visited(case.boxes, len(case.image)))[0])
    kept = np.arange(first % stride, len(case.image), stride)
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


def smallest_part(case: BenchmarkCase) -> BenchmarkCase:
    """Return the least of a case that a network must see to be warm: the first box, in 3D on two slices."""
    boxes = case.boxes[:1].copy()
    if not case.is_volume:
        return replace(case, boxes=boxes, gts=None)
    first = int(boxes[0, 2])
    image = case.image[first : first + 2]
    boxes[:, 2], boxes[:, 5] = 0, len(image) - 1
    return replace(case, image=image, boxes=boxes, gts=None)


def _visited(boxes: NDArray[Any], depth: int) -> NDArray[np.bool_]:
    slices = np.arange(depth)
    return np.asarray(((boxes[:, 2, None] <= slices) & (slices <= boxes[:, 5, None])).any(axis=0))
