"""Diagrams of the report as PNG: learning curves, and robustness to boxes.

An existing file is replaced; the same numbers give a byte-identical file.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from graysam.reporting.probes import Probe, robustness
from graysam.reporting.runs import CURVES, DSC, Run
from graysam.reporting.speed import COLOURS, save_figure


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
