"""Diagrams of the report as PNG: learning curves, differences of variants, and the three diagrams of probes.

An existing file is replaced; the same numbers give a byte-identical file. matplotlib is imported on first use.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from graysam.metrics.aggregation import MACRO
from graysam.reporting.paired_runs import METRICS, Pair
from graysam.reporting.probes import AREA_EDGES, Probe, by_size, calibration, robustness
from graysam.reporting.runs import CURVES, DSC, Run
from graysam.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure without matplotlib's version, which would change the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def draw_robustness(probes: Sequence[Probe], path: Path) -> None:
    """Draw macro DSC over the amount that boxes are changed by, a panel a change; at least one probe."""
    from matplotlib.figure import Figure

    changes = list(dict.fromkeys(change for probe in probes for change in probe.changes))
    figure = Figure(figsize=(3.6 * len(changes), 3.6), layout="constrained")
    panels = figure.subplots(1, len(changes), squeeze=False, sharey=True)[0]
    for axes, change in zip(panels, changes, strict=True):
        for probe, colour in zip(probes, itertools.cycle(COLOURS)):
            if change in probe.changes:
                points = 100 * robustness(probe).xs(change)
                axes.plot(100 * points.index, points, marker="o", markersize=4, color=colour, label=probe.title)
        axes.set(title=f"box {change}", xlabel="% of its sides")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("DSC (%), macro average")
    panels[0].legend(frameon=False, fontsize="small")
    save_figure(figure, path)


def draw_calibration(probes: Sequence[Probe], path: Path) -> None:
    """Draw the real over the predicted IoU, a point a bin, its size the bin's objects; at least one probe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="#999999", linewidth=1, label="as good as predicted")
    for probe, colour in zip(probes, itertools.cycle(COLOURS)):
        bins = calibration(probe).query("n > 0")
        x, y = 100 * bins["predicted_iou"], 100 * bins["iou"]
        axes.plot(x, y, color=colour, label=probe.title)
        axes.scatter(x, y, s=8 + 60 * bins["n"] / max(1, len(probe.objects)), color=colour)
    axes.set(xlabel="predicted IoU (%)", ylabel="real IoU (%), mean of the bin", xlim=(0, 102), ylim=(0, 102))
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    save_figure(figure, path)


def draw_sizes(probes: Sequence[Probe], path: Path) -> None:
    """Draw mean DSC by the share of the image that objects take, with the numbers of objects; at least one probe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(probes)
    for index, (probe, colour) in enumerate(zip(probes, itertools.cycle(COLOURS))):
        bins = by_size(probe).dropna()
        if not bins.empty:
            x = bins.index + (index - (len(probes) - 1) / 2) * width
            bars = axes.bar(x, 100 * bins["dsc"], width * 0.95, color=colour, label=probe.title)
            axes.bar_label(bars, [f"n={n:.0f}" for n in bins["n"]], fontsize=7)
    names = [f"{100 * low:g} to {100 * high:g} %" for low, high in itertools.pairwise(AREA_EDGES)]
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="share of the image that the object takes", ylabel="DSC (%), mean over objects", ylim=(0, 108))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if axes.patches:
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")  # bars fill the axes
    save_figure(figure, path)


def draw_differences(pairs: Sequence[Pair], path: Path) -> None:
    """Draw macro DSC and NSD of pairs with their 95 % intervals: one row a pair, axes of its own for each reference.

    Args:
        pairs: at least one, each with shared objects.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    references = list(dict.fromkeys(pair.reference for pair in pairs))
    groups = [[pair for pair in pairs if pair.reference == reference] for reference in references]
    heights = [1.0 + 0.3 * len(group) for group in groups]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False, sharey="row", height_ratios=heights)
    for row, (reference, group) in enumerate(zip(references, groups, strict=True)):
        for axes, metric in zip(panels[row], METRICS, strict=True):
            axes.axvline(0, color="#999999", linewidth=1)
            for place, pair in enumerate(group):
                found = getattr(pair, metric)[MACRO]
                colour = COLOURS[place % len(COLOURS)]
                # nothing is drawn for an interval of NaN
                axes.plot([100 * found.low, 100 * found.high], [place, place], color=colour)
                axes.plot(100 * found.mean, place, marker="o", color=colour)
            axes.set(xlabel=f"{metric.upper()}, points")
            axes.grid(axis="x", alpha=0.3)
        panels[row][0].set_title(f"minus {reference}", loc="left", fontsize="medium")
        panels[row][0].set_yticks(range(len(group)), [f"{pair.short_name}, {pair.method}" for pair in group])
        panels[row][0].set_ylim(len(group) - 0.5, -0.5)  # the first on top, none on the frame
    save_figure(figure, path)


def draw_curves(curves: Sequence[tuple[Run, pd.DataFrame]], path: Path) -> None:
    """Draw the learning curves of runs, one panel for each of CURVES that any of them has.

    Args:
        curves: runs with their `read_curves`, at least one.
        path: of the PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = {title: names for title, names in CURVES.items() if any(c in one for _, one in curves for c in names)}
    variants = list(dict.fromkeys(run.name for run, _ in curves))  # seeds of a variant share a colour
    styles: Mapping[str, dict[str, Any]] = {
        "training": {"linestyle": ":", "marker": ".", "markersize": 4},
        "validation": {"linestyle": "-", "marker": "o", "markersize": 4},
    }
    figure = Figure(figsize=(4.6 * len(panels), 3.6 + 0.11 * len(variants)), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for run, one in curves:
            for column in [column for column in names if column in one]:
                points = one[column].dropna() * (100 if column == DSC else 1)
                axes.plot(points.index / 1000, points, color=f"C{variants.index(run.name)}", **styles[names[column]])
        axes.set(title=title, xlabel="thousand images seen")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    handles = [Line2D([], [], color=f"C{place}", label=name) for place, name in enumerate(variants)]
    handles += [Line2D([], [], color="grey", label=label, **style) for label, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    save_figure(figure, path)
