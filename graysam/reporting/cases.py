"""Cases that the report shows: the best and the worst by DSC, and the first grey image of each modality."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import to_uint8
from graysam.io.cases import read_gts, read_input_case, read_segs
from graysam.io.image import modality_of
from graysam.metrics.challenge import case_dice
from graysam.reporting.accuracy import WORST, in_papers_order
from graysam.system.terminal import one_line

MAX_SEARCHED = 20  # cases of a modality among which a grey image is searched


@dataclass(frozen=True)
class Folders:
    """Folders of case files with the same names: imgs with boxes, gts, and segs that `graysam predict` wrote.

    Each is None where it was not given. Raises ValueError for one that is not a directory or holds no case.
    """

    cases: Path | None = None
    gts: Path | None = None
    segs: Path | None = None

    def __post_init__(self) -> None:
        for option, folder in vars(self).items():
            if folder is not None and not any(folder.glob("*.npz")):
                what = "holds no .npz file" if folder.is_dir() else "is not a directory"
                raise ValueError(f"--{option} {folder} {what}; required: a folder of case files (.npz)")

    @property
    def absent(self) -> list[str]:
        """Return the options that were not given."""
        names = {"cases": "--cases IMGS", "gts": "--gts GTS", "segs": "--segs SEGS"}
        return [names[name] for name, folder in vars(self).items() if folder is None]


@dataclass(frozen=True, eq=False)
class View:
    """Image that is shown of a case.

    Attributes:
        case: name of the case.
        modality: of the case.
        image: uint8 (H,W) or (H,W,3) RGB; of a volume the slice `z`.
        boxes: (N,4) inclusive pixel indices of the boxes that reach the slice.
        truth: integer labels (H,W), or None; masks: likewise.
        dsc: of the whole case, in [0, 1].
        heading: of its picture.
    """

    case: str
    modality: str
    image: NDArray[np.uint8]
    z: int | None
    boxes: NDArray[Any]
    truth: NDArray[Any] | None = None
    masks: NDArray[Any] | None = None
    dsc: float = math.nan
    heading: str = ""

    @property
    def name(self) -> str:
        """Return the case's name, with the slice of a volume."""
        return self.case if self.z is None else f"{self.case}, slice {self.z}"


class ShownCases(NamedTuple):
    """The best and worst case of each modality, the cases with the smallest DSC, and lines for cases left out."""

    extremes: list[View]
    worst: list[View]
    left_out: list[str]


def shown_cases(folders: Folders) -> ShownCases:
    """Read the cases that are in all three folders and choose the best and the worst by DSC.

    Cases without objects have no DSC and are not considered. Ties are broken by name; modalities are in the paper's
    order.
    """
    dsc: dict[str, float] = {}
    left_out = []
    for path in sorted(folders.segs.glob("*.npz")) if folders.segs is not None else []:
        try:
            dsc[path.stem] = _read_view(path.stem, folders).dsc
        except (ValueError, OSError) as error:
            left_out.append(f"{path.stem}: {one_line(error)}")
    ranked = sorted((case for case in dsc if not math.isnan(dsc[case])), key=lambda case: (dsc[case], case))
    headings = []
    for modality in in_papers_order({modality_of(case) for case in ranked}):
        cases = [case for case in ranked if modality_of(case) == modality]
        chosen = {"only": cases[0]} if len(cases) == 1 else {"best": cases[-1], "worst": cases[0]}
        headings += [(f"{modality}, {which}", case) for which, case in chosen.items()]
    extremes = [replace(_read_view(case, folders), heading=heading) for heading, case in headings]
    worst = [replace(_read_view(case, folders), heading=modality_of(case)) for case in ranked[:WORST]]
    return ShownCases(extremes, worst, left_out)


def grey_views(folders: Folders) -> tuple[list[View], list[str]]:
    """Return the first grey image of each modality in the paper's order, and a line for each file that was left out.

    A modality without a grey image among its first MAX_SEARCHED cases is left out.
    """
    names: dict[str, list[str]] = {}
    for path in sorted(folders.cases.glob("*.npz")) if folders.cases is not None else []:
        names.setdefault(modality_of(path.stem), []).append(path.stem)
    views, left_out = [], []
    for modality in in_papers_order(names):
        for name in names[modality][:MAX_SEARCHED]:
            try:
                view = _read_view(name, replace(folders, segs=None))
            except (ValueError, OSError) as error:
                left_out.append(f"{name}: {one_line(error)}")
                continue
            if view.image.ndim == 2:
                views.append(view)
                break
    return views, left_out


def _read_view(name: str, folders: Folders) -> View:
    """Read a case with the ground truth and masks of the folders that are given.

    Of a volume, the slice with most of the ground truth is shown; without ground truth, the middle of the first box.
    An image of three equal channels becomes one channel.
    """
    imgs, gts, segs = (None if folder is None else folder / f"{name}.npz" for folder in vars(folders).values())
    if segs is None and gts is not None and not gts.is_file():
        gts = None
    for path in (imgs, gts):
        if path is not None and not path.is_file():
            raise ValueError(f"{path} is missing")
    case = read_input_case(imgs or name)
    truth = None if gts is None else read_gts(gts)[0]
    masks = None if segs is None else read_segs(segs)
    if truth is not None and truth.shape != case.image.grid:
        raise ValueError(f"gts have shape {truth.shape}, imgs {case.image.pixels.shape}; required: the same grid")
    dsc = math.nan if truth is None or masks is None else case_dice(truth, masks)
    image, z = to_uint8(case.image.pixels), None
    boxes = np.zeros((0, 4)) if case.boxes is None else case.boxes
    if case.image.is_volume:
        z = len(image) // 2 if not len(boxes) else int(boxes[0, [2, 5]].sum()) // 2
        z = int((truth > 0).sum(axis=(1, 2)).argmax()) if truth is not None and truth.any() else z
        boxes = boxes[(boxes[:, 2] <= z) & (z <= boxes[:, 5])][:, [0, 1, 3, 4]]
        image, truth, masks = image[z], truth if truth is None else truth[z], masks if masks is None else masks[z]
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = image[..., 0]
    return View(name, case.image.modality, np.ascontiguousarray(image), z, boxes, truth, masks, dsc)
