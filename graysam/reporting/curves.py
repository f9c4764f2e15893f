"""Learning curves from run directories: how the numbers of metrics.csv went over the images seen."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graysam.reporting.figures import save
from graysam.reporting.runs import MACRO, Run
from graysam.reporting.tables import EMPTY, Table

DSC = f"val/dsc_slice256/{MACRO}"
# Panel -> its columns of metrics.csv, and their names in the legend.
PANELS: Mapping[str, Mapping[str, str]] = {
    "normalised embedding error": {"train/embedding_error_epoch": "training", "val/embedding_error": "validation"},
    "segmentation loss": {"train/loss_epoch": "training", "val/loss": "validation"},
    "DSC of the validation slices, macro, %": {DSC: "validation"},
}
COLUMNS = tuple(column for panel in PANELS.values() for column in panel)
Points = list[tuple[int, float]]  # images seen, value


@dataclass(frozen=True)
class Curves:
    """A run's curves: by column of metrics.csv, values over the images seen (steps times images a step)."""

    run: Run
    points: Mapping[str, Points]


def read_curves(run: Run) -> Curves | None:
    """Read what a run's CSV logger wrote, over all its starts; of a step that was repeated the last value counts.

    Returns:
        The curves; None where no CSV logger wrote a value of `COLUMNS`.

    Raises:
        ValueError: a file that is no such CSV, or a run of which nothing tells how many images a step sees.
    """
    found: dict[str, dict[int, float]] = {}
    files = sorted((run.path / "metrics").glob("version_*/metrics.csv"), key=lambda file: _version(file.parent))
    for file in files:
        try:
            with file.open(newline="", encoding="utf-8") as stream:
                for row in csv.DictReader(stream):
                    for column in COLUMNS:
                        if row.get(column):
                            found.setdefault(column, {})[int(row["step"]) + 1] = float(row[column])
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise ValueError(f"{file} cannot be read as a CSV logger's ({error})") from None
    if not found:
        return None
    images = run.images_per_step
    if images is None:
        raise ValueError("neither config.json nor run.json says how many images a step sees")
    points = {column: [(step * images, values[step]) for step in sorted(values)] for column, values in found.items()}
    return Curves(run, points)


def curve_table(curves: Curves) -> Table:
    """Return a run's curves as a table, a row for each time that something was validated or an epoch ended."""
    seen = sorted({images for points in curves.points.values() for images, _ in points})
    columns = [column for column in COLUMNS if column in curves.points]
    at = {column: dict(curves.points[column]) for column in columns}
    rows = [[f"{images}", *(_text(column, at[column].get(images)) for column in columns)] for images in seen]
    return Table(f"Learning curve: {curves.run.name}, seed {curves.run.seed}", ("images seen", *columns), rows)


def _text(column: str, value: float | None) -> str:
    return EMPTY if value is None else f"{100 * value:.2f}" if column == DSC else f"{value:.3f}"


def draw(curves: Sequence[Curves], path: Path) -> None:
    """Draw runs into one PNG, a panel for each of `PANELS` that any of them has. Needs matplotlib.

    Args:
        curves: at least one run's.
        path: the file's name; its folder is made, and a file that is there is replaced.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = {
        title: columns for title, columns in PANELS.items() if any(c in one.points for one in curves for c in columns)
    }
    names = list(dict.fromkeys(one.run.name for one in curves))  # seeds of a name share a colour
    styles: dict[str, dict[str, Any]] = {
        "training": {"linestyle": ":", "marker": ".", "markersize": 4},
        "validation": {"linestyle": "-", "marker": "o", "markersize": 4},
    }
    figure = Figure(figsize=(4.6 * len(panels), 3.6 + 0.11 * len(names)), layout="constrained")
    for axes, (title, columns) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for one in curves:
            for column, label in columns.items():
                points = one.points.get(column, [])
                images = [x / 1000 for x, _ in points]
                values = [y * 100 if column == DSC else y for _, y in points]
                axes.plot(images, values, color=f"C{names.index(one.run.name)}", **styles[label])
        axes.set(title=title, xlabel="thousand images seen")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    handles = [Line2D([], [], color=f"C{place}", label=name) for place, name in enumerate(names)]
    handles += [Line2D([], [], color="grey", label=label, **style) for label, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    save(figure, path)


def _version(folder: Path) -> float:
    number = folder.name.rpartition("_")[2]
    return int(number) if number.isdigit() else math.inf
