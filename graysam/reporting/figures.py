"""The report's diagrams, PNG: robustness to the box, calibration of the predicted IoU, size of objects, differences.

All need matplotlib. A file that is there is replaced; the same numbers give the same bytes.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graysam.reporting.paired_runs import Pair
from graysam.reporting.probes import AREA_EDGES, Probe, by_size, calibration, robustness
from graysam.reporting.runs import MACRO
from graysam.system.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def save(figure: "Figure", path: Path) -> None:
    """Write a figure under a temporary name, renamed, without the version of what drew it."""
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
            points = robustness(probe).get(change, [])
            amounts, values = [100 * x for x, _ in points], [100 * y for _, y in points]
            axes.plot(amounts, values, marker="o", markersize=4, color=colour, label=probe.title)
        axes.set(title=f"box {change}", xlabel="% of its sides")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("DSC (%), macro average")
    panels[0].legend(frameon=False, fontsize="small")
    save(figure, path)


def draw_calibration(probes: Sequence[Probe], path: Path) -> None:
    """Draw the real over the predicted IoU, a point a bin, its size the bin's objects; at least one probe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="#999999", linewidth=1, label="as good as predicted")
    for probe, colour in zip(probes, itertools.cycle(COLOURS)):
        bins = [(n, 100 * p, 100 * r) for n, p, r in calibration(probe) if n]
        axes.plot([p for _, p, _ in bins], [r for _, _, r in bins], color=colour, label=probe.title)
        areas = [8 + 60 * n / max(1, len(probe.objects)) for n, _, _ in bins]
        axes.scatter([p for _, p, _ in bins], [r for _, _, r in bins], s=areas, color=colour)
    axes.set(xlabel="predicted IoU (%)", ylabel="real IoU (%), mean of the bin", xlim=(0, 102), ylim=(0, 102))
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    save(figure, path)


def draw_sizes(probes: Sequence[Probe], path: Path) -> None:
    """Draw mean DSC by the share of the image that objects take, with the numbers of objects; at least one probe."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(probes)
    for index, (probe, colour) in enumerate(zip(probes, itertools.cycle(COLOURS))):
        for place, (n, dsc) in enumerate(by_size(probe)):
            if not math.isnan(dsc):
                x = place + (index - (len(probes) - 1) / 2) * width
                label = probe.title if probe.title not in axes.get_legend_handles_labels()[1] else None
                axes.bar(x, 100 * dsc, width * 0.95, color=colour, label=label)
                axes.annotate(f"n={n}", (x, 100 * dsc), ha="center", va="bottom", fontsize=7)
    names = [f"{100 * low:g} to {100 * high:g} %" for low, high in itertools.pairwise(AREA_EDGES)]
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="share of the image that the object takes", ylabel="DSC (%), mean over objects", ylim=(0, 108))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if axes.patches:
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")  # bars fill the axes
    save(figure, path)


def draw_differences(pairs: Sequence[Pair], path: Path) -> None:
    """Draw macro DSC and NSD of pairs with their 95 % intervals, a row a pair; each reference has axes of its own.

    pairs: at least one, each with objects.
    """
    from matplotlib.figure import Figure

    references = list(dict.fromkeys(pair.reference for pair in pairs))
    groups = [[pair for pair in pairs if pair.reference == reference] for reference in references]
    heights = [1.0 + 0.3 * len(group) for group in groups]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False, sharey="row", height_ratios=heights)
    for row, (reference, group) in enumerate(zip(references, groups, strict=True)):
        for axes, metric in zip(panels[row], ("dsc", "nsd"), strict=True):
            axes.axvline(0, color="#999999", linewidth=1)
            for place, pair in enumerate(group):
                found = getattr(pair, metric)[MACRO]
                colour = COLOURS[place % len(COLOURS)]
                # nothing is drawn for an interval of NaN
                axes.plot([100 * found.low, 100 * found.high], [place, place], color=colour)
                axes.plot(100 * found.mean, place, marker="o", color=colour)
            axes.set(xlabel=f"{metric.upper()}, points")
            axes.grid(axis="x", alpha=0.3)
        panels[row][0].set_title(f"more than {reference}", loc="left", fontsize="medium")
        names = [pair.variant.removeprefix(f"{reference.rpartition('/')[0]}/") for pair in group]
        panels[row][0].set_yticks(range(len(group)), [f"{n}, {p.kind}" for n, p in zip(names, group, strict=True)])
        panels[row][0].set_ylim(len(group) - 0.5, -0.5)  # the first on top, none on the frame
    save(figure, path)
