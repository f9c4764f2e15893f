"""Case files behind the report's pictures: which are best and worst, and the slice that shows them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import to_uint8
from graysam.io.cases import Case, read_gts, read_input_case, read_segs
from graysam.io.image import modality_of
from graysam.metrics.challenge import case_dice
from graysam.reporting.accuracy import CaseScores, in_papers_order
from graysam.system.terminal import one_line

LOOKED_AT = 20  # cases of a modality in which a grey image is looked for
SAME_DSC = 1e-3  # that a metrics file and the masks may differ by; it has six digits


@dataclass(frozen=True)
class Folders:
    """Folders of case files of the same names: imgs with boxes, gts, and segs that `graysam.predict` wrote.

    None for one that was not given. Raises ValueError for one that is no folder or holds no case.
    """

    cases: Path | None = None
    gts: Path | None = None
    segs: Path | None = None

    def __post_init__(self) -> None:
        for option, folder in (("--cases", self.cases), ("--gts", self.gts), ("--segs", self.segs)):
            if folder is not None and not any(folder.glob("*.npz")):
                what = "holds no .npz file" if folder.is_dir() else "is no folder"
                raise ValueError(f"{option} {folder} {what}; required: a folder of case files (.npz)")

    @property
    def complete(self) -> bool:
        """Say whether there is all that shows a mask beside the truth."""
        return not self.absent

    @property
    def absent(self) -> list[str]:
        """Return the options that were not given."""
        given = {"--cases IMGS": self.cases, "--gts GTS": self.gts, "--segs SEGS": self.segs}
        return [option for option, folder in given.items() if folder is None]


@dataclass(frozen=True, eq=False)
class View:
    """What is shown of a case: an image, or of a volume the slice z that holds most of the truth.

    image: uint8 (H,W) or (H,W,3) RGB. boxes: (N,4) inclusive pixel indices of the boxes that reach the slice. truth and
    masks: integers (H,W). dsc: of the whole case, a fraction.
    """

    case: str
    modality: str
    image: NDArray[np.uint8]
    z: int | None = None
    boxes: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 4)))
    truth: NDArray[Any] | None = None
    masks: NDArray[Any] | None = None
    dsc: float = math.nan

    @property
    def name(self) -> str:
        """Return the case's name, with the slice of a volume."""
        return self.case if self.z is None else f"{self.case}, slice {self.z}"


@dataclass(frozen=True)
class Ranking:
    """DSC of every case that has one, a fraction, and a line for each that was left out."""

    name: str
    dsc: Mapping[str, float]
    left_out: tuple[str, ...] = ()

    @property
    def worst_first(self) -> list[str]:
        """Return the cases from the smallest DSC to the largest, by name where these are the same."""
        return sorted(self.dsc, key=lambda case: (self.dsc[case], case))

    def extremes(self) -> dict[str, tuple[str, str]]:
        """Return each modality's best and worst case, in the paper's order; the same one where there is no other."""
        by_modality: dict[str, list[str]] = {}
        for case in self.worst_first:
            by_modality.setdefault(modality_of(case), []).append(case)
        return {name: (by_modality[name][-1], by_modality[name][0]) for name in in_papers_order(by_modality)}


def rank(folders: Folders, scores: CaseScores | None) -> Ranking:
    """Return the DSC of the cases that lie in all three folders.

    folders: complete. scores: the metrics file of these masks, None to score them here.
    """
    cases, gts, segs = folders.cases, folders.gts, folders.segs
    if cases is None or gts is None or segs is None:
        raise ValueError("cases are ranked by their masks; required: --cases, --gts and --segs")
    known = {} if scores is None else scores.dsc_by_case
    found, left_out = {}, []
    for path in sorted(segs.glob("*.npz")):
        absent = [str(folder / path.name) for folder in (cases, gts) if not (folder / path.name).is_file()]
        if absent:
            left_out.append(f"{path.stem}: {' and '.join(absent)} is missing")
            continue
        try:
            dsc = known[path.stem] if path.stem in known else case_dice(read_gts(gts / path.name)[0], read_segs(path))
        except (ValueError, OSError) as error:
            left_out.append(f"{path.stem}: {one_line(error)}")
            continue
        if math.isnan(dsc):  # no object, no DSC
            continue
        if scores is not None and path.stem not in known:
            left_out.append(f"{path.stem}: the metrics file has no score of it; run graysam.evaluate again")
            continue
        found[path.stem] = dsc
    return Ranking(segs.resolve().name, found, tuple(left_out))


def read_view(case: str, folders: Folders, dsc: float) -> View:
    """Read what is shown of a case of complete folders.

    Raises:
        ValueError: a file that cannot be used, other grids, or masks whose DSC is not the one that is known.
    """
    if folders.cases is None or folders.gts is None or folders.segs is None:
        raise ValueError("a case is shown with its masks; required: --cases, --gts and --segs")
    read = read_input_case(folders.cases / f"{case}.npz")
    truth, masks = read_gts(folders.gts / f"{case}.npz")[0], read_segs(folders.segs / f"{case}.npz")
    if truth.shape != read.image.grid:
        raise ValueError(
            f"{case}: gts have shape {truth.shape}, imgs {read.image.pixels.shape}; required: the same grid"
        )
    real = case_dice(truth, masks)
    if not abs(real - dsc) <= SAME_DSC:
        raise ValueError(
            f"{case}: its masks have DSC {real:.4f}, the metrics file says {dsc:.4f}; it is of other masks: run "
            "graysam.evaluate on --segs again, or name the folder otherwise"
        )
    view = _slice_of(read, None if not read.image.is_volume else int((truth > 0).sum(axis=(1, 2)).argmax()))
    here: Any = ... if view.z is None else view.z
    return replace(view, truth=truth[here], masks=masks[here], dsc=dsc)


def grey_views(folders: Folders) -> tuple[list[View], list[str]]:
    """Return the first grey image of each modality, in the paper's order, and a line for each file that was left out.

    Of a volume it is the slice with most of the truth; without truth, the middle of the first box. A modality without a
    grey image among its first 20 cases is one of colour and left out.
    """
    paths: dict[str, list[Path]] = {}
    for path in sorted(folders.cases.glob("*.npz")) if folders.cases is not None else []:
        paths.setdefault(modality_of(path.stem), []).append(path)
    views, left_out = [], []
    for modality in in_papers_order(paths):
        for path in paths[modality][:LOOKED_AT]:
            try:
                read = read_input_case(path)
                view = _slice_of(read, _shown_slice(read, folders.gts) if read.image.is_volume else None)
            except (ValueError, OSError) as error:
                left_out.append(f"{path.stem}: {one_line(error)}")
                continue
            if view.image.ndim == 2:
                views.append(view)
                break
    return views, left_out


def _shown_slice(case: Case, gts: Path | None) -> int:
    if gts is not None and (gts / f"{case.image.name}.npz").is_file():
        truth, _ = read_gts(gts / f"{case.image.name}.npz")
        if truth.shape == case.image.pixels.shape and truth.any():
            return int((truth > 0).sum(axis=(1, 2)).argmax())
    depth = len(case.image.pixels)
    return depth // 2 if case.boxes is None or not len(case.boxes) else int(case.boxes[0, [2, 5]].sum()) // 2


def _slice_of(case: Case, z: int | None) -> View:
    """Return a case's image, or a volume's slice z, as one channel where its three are equal."""
    image = to_uint8(case.image.pixels)
    boxes = np.zeros((0, 4)) if case.boxes is None else case.boxes
    if z is not None:
        boxes = boxes[(boxes[:, 2] <= z) & (z <= boxes[:, 5])][:, [0, 1, 3, 4]]
        image = image[z]
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = image[..., 0]
    return View(case.image.name, case.image.modality, np.ascontiguousarray(image), z, boxes)
