"""The benchmark's charts, PNG: seconds by case, and accuracy over latency. Needs matplotlib."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from graysam.reporting.schemas import BenchmarkReport
from graysam.reporting.speed import (
    BASELINE,
    accuracy_is_given,
    accuracy_of,
    geometric_mean_s,
    markdown,
    median_seconds,
)
from graysam.system.files import replacing

# Colour-blind safe (Okabe and Ito 2008); the baseline is grey.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_BASELINE_COLOUR = "#666666"


def speed_section(content: Any, number: int) -> tuple[str, list[tuple[str, str, Callable[[Path], object]]]]:
    """Return Markdown below a section's heading, and file name, words and drawing function of each chart.

    Args:
        content: of benchmark.json.
        number: of the benchmark in the report, part of the charts' names.

    Raises:
        ValueError: a damaged document.
    """
    report = BenchmarkReport.from_json(content)
    charts: list[tuple[str, str, Callable[[Path], object]]] = [
        (f"seconds_{number}.png", "Seconds a case and competitor", partial(write_seconds_chart, report))
    ]
    if any(accuracy_of(report, name) for name in report.competitors):
        words = "Accuracy over latency: DSC over seconds a case"
        charts.append((f"accuracy_{number}.png", words, partial(write_accuracy_chart, report)))
    return markdown(report).replace("# Benchmark", "### Benchmark", 1).rstrip(), charts


def write_seconds_chart(report: BenchmarkReport, path: Path) -> None:
    """Draw a bar for every case and competitor, seconds on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 1.1 * len(report.cases) + 1.5), 5.0), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / max(len(report.competitors), 1)
    for index, (name, colour) in enumerate(_colours(report).items()):
        offset = (index - (len(report.competitors) - 1) / 2) * width
        places = [place + offset for place in range(len(report.cases))]
        axes.bar(places, median_seconds(report, name), width, color=colour, label=report.competitors[name].title)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("seconds a case, warm (log)")
    labels = [
        f"{name.partition('_')[2]}\n{'x'.join(map(str, case.shape))}\n{case.objects} obj."
        for name, case in report.cases.items()
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.grid(axis="y", which="major", alpha=0.4)
    axes.set_axisbelow(True)
    axes.set_title(f"{report.machine['cpu']}, {report.settings['threads']} threads; lower is faster", fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    _save(figure, path)


def write_accuracy_chart(report: BenchmarkReport, path: Path) -> bool:
    """Draw macro DSC over the geometric mean of the seconds; return False, without a file, where none is known."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    points = [
        (seconds, 100 * accuracy["dsc"], name)
        for name in report.competitors
        if (seconds := geometric_mean_s(report, name)) is not None and (accuracy := accuracy_of(report, name))
    ]
    if not points:
        return False
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (seconds, dsc, name) in enumerate(sorted(points)):
        axes.scatter(seconds, dsc, s=60, color=_colours(report)[name], zorder=3)
        axes.annotate(
            report.competitors[name].title,
            (seconds, dsc),
            textcoords="offset points",
            xytext=(0, 9 if index % 2 else -15),
            ha="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(0.2)
    axes.set_xlabel("seconds a case, warm, geometric mean (log)")
    of = ", of other cases" if accuracy_is_given(report) else ""
    axes.set_ylabel(f"DSC (%), macro average over modalities{of}")
    axes.grid(which="major", alpha=0.4)
    _save(figure, path)
    return True


def _colours(report: BenchmarkReport) -> dict[str, str]:
    others = [name for name in report.competitors if name != BASELINE]
    chosen = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(others)}
    return {name: chosen.get(name, _BASELINE_COLOUR) for name in report.competitors}


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
