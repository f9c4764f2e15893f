"""The paper's Figures 2 and 3 as PNG: channels by scheme, and cases with boxes and outlines.

An existing file is replaced; the same cases give a byte-identical file.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.canvas import Canvas, prepare_image
from graysam.imaging.channels import Scheme
from graysam.imaging.drawing import BOX, PREDICTION, RGB, TRUTH, draw_panel
from graysam.imaging.presets import load_scheme
from graysam.reporting.cases import View
from graysam.reporting.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMES = ("replicate", "paper", "released", "perona_malik")
SIZE = 256  # px, the network's
_WIDTH = 10.0  # inches; a phone shows 1200 px at a third, so letters are three times as large as they look
_LARGE, _SMALL = 19, 15  # points


def channels(image: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.float32]:
    """Return the network's input in prediction without its padding.

    Args:
        image: uint8 (H,W).
        scheme: of the channels.

    Returns:
        float32 (h,w,3) in [0, 1], the longer side 256.
    """
    height, width = image.shape
    canvas = Canvas(height, width, SIZE)
    prepared = prepare_image(image, scheme, SIZE)
    return np.moveaxis(prepared, 0, -1)[: canvas.resized_height, : canvas.resized_width]


def draw_channels(views: Sequence[View], path: Path) -> None:
    """Draw each grey image with the second and third channel of every scheme; at least one view."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 4.2 * len(views)), layout="constrained")
    for view, block in zip(views, figure.subfigures(len(views), 1, squeeze=False)[:, 0], strict=True):
        block.suptitle(f"{view.modality}: {view.name}", fontsize=_LARGE - 2, x=0.01, ha="left")
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
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = (len(views) + 1) // 2
    figure = Figure(figsize=(_WIDTH, 0.9 + 5.9 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels[len(views) :]:
        axes.set_axis_off()
    for axes, view in zip(panels, views, strict=False):
        _show(axes, draw_panel(view.image, view.boxes, view.masks, view.truth))
        axes.set_title(f"{view.heading}: DSC {100 * view.dsc:.1f} %", fontsize=_LARGE)
        axes.set_xlabel("\n".join(textwrap.wrap(view.name, 34)), fontsize=_SMALL)
    lines = [
        Line2D([], [], color=_hex(BOX), linestyle="--", linewidth=3, label="box"),
        Line2D([], [], color=_hex(TRUTH), linewidth=3, label="ground truth"),
        Line2D([], [], color=_hex(PREDICTION), linewidth=8, label="prediction"),
    ]
    figure.legend(
        handles=lines, loc="outside upper center", ncols=3, fontsize=_LARGE, facecolor="#333333", labelcolor="white"
    )
    save_figure(figure, path)


def _show(axes: "Axes", picture: NDArray[Any]) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)  # limits of grey ones; colour stays as it is
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _hex(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
