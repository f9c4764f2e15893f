"""Pictures of the report as PNG: cases (Figure 3), channels (Figure 2), learning curves, robustness to boxes.

An existing file is replaced; the same numbers give a byte-identical file.
"""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from graysam.imaging.canvas import Canvas, prepare_image, to_uint8
from graysam.imaging.channels import Scheme, load_scheme
from graysam.imaging.drawing import BOX, PREDICTION, TRUTH, draw_panel
from graysam.io.cases import read_gts, read_input_case, read_segs
from graysam.io.image import modality_of
from graysam.io.listing import case_path, case_paths, list_folder
from graysam.metrics.challenge import case_dice
from graysam.reporting.accuracy import in_papers_order
from graysam.reporting.probes import Probe, robustness
from graysam.reporting.runs import CURVES, DSC, Run
from graysam.reporting.speed import COLOURS, save_figure
from graysam.system.terminal import one_line

WORST = 10  # cases drawn
MAX_SEARCHED = 20  # cases of a modality among which a grey image is searched
SCHEMES = ("replicate", "paper", "released", "perona_malik")
SIZE = 256  # px, the network's
_WIDTH = 10.0  # inches; a phone shows 1200 px at a third, so letters are three times as large as they look
_LARGE, _SMALL = 19, 15  # points


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
            if folder is not None:
                case_paths(folder, f"--{option}")

    @property
    def absent(self) -> list[str]:
        """Return the options that were not given."""
        names = {"cases": "--cases IMGS", "gts": "--gts GTS", "segs": "--segs SEGS"}
        return [names[name] for name, folder in vars(self).items() if folder is None]


class View(NamedTuple):
    """Image that is shown of a case: of a volume, a slice with the boxes that reach it."""

    name: str  # of the case, with the slice of a volume
    heading: str  # of its picture, at first the modality
    image: NDArray[np.uint8]  # (H,W) or (H,W,3) RGB
    boxes: NDArray[Any]  # (N,4) inclusive pixel indices
    truth: NDArray[Any] | None  # integer labels (H,W)
    masks: NDArray[Any] | None  # likewise
    dsc: float  # of the whole case, in [0, 1]


def shown_cases(folders: Folders) -> tuple[list[View], list[View], list[str]]:
    """Read the cases that are in all three folders and choose the best and the worst by DSC.

    Cases without objects have no DSC and are not considered. Ties are broken by name.

    Returns:
        The best and worst case of each modality, the WORST cases, and a line for each case left out; nothing where a
        folder was not given.
    """
    dsc: dict[str, float] = {}
    left_out = []
    for path in list_folder(folders.segs).files if folders.segs and not folders.absent else []:
        try:
            dsc[path.stem] = _read_view(path.stem, folders).dsc
        except (ValueError, OSError) as error:
            left_out.append(f"{path.stem}: {one_line(error)}")
    ranked = sorted((case for case in dsc if not math.isnan(dsc[case])), key=lambda case: (dsc[case], case))
    extremes = []
    for modality in in_papers_order({modality_of(case) for case in ranked}):
        cases = [case for case in ranked if modality_of(case) == modality]
        chosen = {"only": cases[0]} if len(cases) == 1 else {"best": cases[-1], "worst": cases[0]}
        for which, case in chosen.items():
            extremes.append(_read_view(case, folders)._replace(heading=f"{modality}, {which}"))
    return extremes, [_read_view(case, folders) for case in ranked[:WORST]], left_out


def grey_views(folders: Folders) -> tuple[list[View], list[str]]:
    """Return the first grey image of each modality in the paper's order, and a line for each file that was left out.

    A modality without a grey image among its first MAX_SEARCHED cases is left out.
    """
    names: dict[str, list[str]] = {}
    for path in list_folder(folders.cases).files if folders.cases else []:
        names.setdefault(modality_of(path.stem), []).append(path.stem)
    views, left_out = [], []
    for modality in in_papers_order(names):
        for name in names[modality][:MAX_SEARCHED]:
            try:
                view = _read_view(name, Folders(folders.cases))
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
    imgs, gts, segs = (folder and case_path(folder, name) for folder in (folders.cases, folders.gts, folders.segs))
    case = read_input_case(imgs or name)
    truth = None if gts is None else read_gts(gts, None)[0]
    masks = None if segs is None else read_segs(segs)
    if truth is not None and truth.shape != case.image.grid:
        raise ValueError(f"gts have shape {truth.shape}, imgs {case.image.pixels.shape}; required: the same grid")
    dsc = math.nan if truth is None or masks is None else case_dice(truth, masks)
    image = to_uint8(case.image.pixels)
    boxes = np.zeros((0, 4)) if case.boxes is None else case.boxes
    if case.image.is_volume:
        z = len(image) // 2 if not len(boxes) else int(boxes[0, [2, 5]].sum()) // 2
        z = int((truth > 0).sum(axis=(1, 2)).argmax()) if truth is not None and truth.any() else z
        boxes = boxes[(boxes[:, 2] <= z) & (z <= boxes[:, 5])][:, [0, 1, 3, 4]]
        image, truth, masks = image[z], truth if truth is None else truth[z], masks if masks is None else masks[z]
        name = f"{name}, slice {z}"
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = image[..., 0]
    return View(name, case.image.modality, np.ascontiguousarray(image), boxes, truth, masks, dsc)


def channels(image: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.float32]:
    """Return the network's input in prediction without its padding: float32 (h,w,3) in [0, 1], longer side 256."""
    height, width = image.shape
    canvas = Canvas(height, width, SIZE)
    prepared = prepare_image(image, scheme, SIZE)
    return np.moveaxis(prepared, 0, -1)[: canvas.resized_height, : canvas.resized_width]


def draw_channels(views: Sequence[View], path: Path) -> None:
    """Draw each grey image with the second and third channel of every scheme; at least one view."""
    figure = Figure(figsize=(_WIDTH, 4.2 * len(views)), layout="constrained")
    for view, block in zip(views, figure.subfigures(len(views), 1, squeeze=False)[:, 0], strict=True):
        block.suptitle(f"{view.heading}: {view.name}", fontsize=_LARGE - 2, x=0.01, ha="left")
        grid = block.add_gridspec(2, 2 + len(SCHEMES))
        whole = block.add_subplot(grid[:, :2])
        _show(whole, channels(view.image, load_scheme("replicate"))[..., 0])
        whole.set_title("raw image", fontsize=_LARGE)
        for column, name in enumerate(SCHEMES):
            made = channels(view.image, load_scheme(name))
            for row, ordinal in enumerate(("2nd", "3rd")):
                axes = block.add_subplot(grid[row, 2 + column])
                _show(axes, made[..., 1 + row])
                if row == 0:
                    axes.set_title(name.replace("_", "-\n"), fontsize=_SMALL)
                if column == 0:
                    axes.set_ylabel(ordinal, fontsize=_LARGE)
    save_figure(figure, path)


def draw_cases(views: Sequence[View], path: Path) -> None:
    """Draw cases in two columns, each under its heading and DSC; at least one."""
    rows = (len(views) + 1) // 2
    figure = Figure(figsize=(_WIDTH, 0.9 + 5.9 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels[len(views) :]:
        axes.set_axis_off()
    for axes, view in zip(panels, views, strict=False):
        _show(axes, draw_panel(view.image, view.boxes, view.masks, view.truth))
        axes.set_title(f"{view.heading}: DSC {100 * view.dsc:.1f} %", fontsize=_LARGE)
        axes.set_xlabel("\n".join(textwrap.wrap(view.name, 34)), fontsize=_SMALL)
    styles: Any = (("box", BOX, "--", 3), ("ground truth", TRUTH, "-", 3), ("prediction", PREDICTION, "-", 8))
    lines = [
        Line2D([], [], color="#{:02x}{:02x}{:02x}".format(*colour), linestyle=line, linewidth=width, label=label)
        for label, colour, line, width in styles
    ]
    figure.legend(
        handles=lines, loc="outside upper center", ncols=3, fontsize=_LARGE, facecolor="#333333", labelcolor="white"
    )
    save_figure(figure, path)


def _show(axes: Axes, picture: NDArray[Any]) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)  # limits of grey ones; colour stays as it is
    axes.tick_params(bottom=False, left=False, labelbottom=False, labelleft=False)
    axes.spines[:].set_visible(False)


def draw_robustness(probes: Sequence[Probe], path: Path) -> None:
    """Draw macro DSC over the amount that boxes are changed by, a panel a change; at least one probe."""
    found = robustness(probes)
    changes = found.index.unique("change")
    figure = Figure(figsize=(3.6 * len(changes), 3.6), layout="constrained")
    panels = figure.subplots(1, len(changes), squeeze=False, sharey=True)[0]
    for axes, change in zip(panels, changes, strict=True):
        for (title, dsc), colour in zip(found.xs(change).items(), itertools.cycle(COLOURS)):
            points = 100 * dsc.dropna()
            axes.plot(100 * points.index, points, marker="o", markersize=4, color=colour, label=title)
        axes.set(title=f"box {change}", xlabel="% of its sides")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("DSC (%), macro average")
    panels[0].legend(frameon=False, fontsize="small")
    save_figure(figure, path)


def draw_curves(curves: Sequence[tuple[Run, pd.DataFrame]], path: Path) -> None:
    """Draw the learning curves of runs, a panel for each of CURVES that any of them has; at least one run."""
    panels = {title: names for title, names in CURVES.items() if any(c in one for _, one in curves for c in names)}
    variants = list(dict.fromkeys(run.name for run, _ in curves))  # seeds of a variant share a colour
    styles: Mapping[str, dict[str, Any]] = {
        "training": {"linestyle": ":", "marker": ".", "markersize": 4},
        "validation": {"linestyle": "-", "marker": "o", "markersize": 4},
    }
    figure = Figure(figsize=(4.6 * len(panels), 3.6 + 0.11 * len(variants)), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for run, one in curves:
            for column in one.columns.intersection(list(names)):
                points = one[column].dropna() * (100 if column == DSC else 1)
                axes.plot(points.index / 1000, points, color=f"C{variants.index(run.name)}", **styles[names[column]])
        axes.set(title=title, xlabel="thousand images seen")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    handles = [Line2D([], [], color=f"C{place}", label=name) for place, name in enumerate(variants)]
    handles += [Line2D([], [], color="grey", label=label, **style) for label, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    save_figure(figure, path)
