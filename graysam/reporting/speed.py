"""The benchmark's text, tables and charts, from its report: times, ratios, memory, cold starts."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.metrics.aggregation import macro_average
from graysam.reporting.schemas import BenchmarkReport
from graysam.reporting.tables import EMPTY, Table, render
from graysam.system.files import replacing

BASELINE = "litemedsam"
# Colour-blind safe (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

Float64 = NDArray[np.float64]


def save_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG, without matplotlib's version, which would change the file."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def geometric_mean(values: Float64) -> float:
    """Return the geometric mean of positive values, NaN where there are none; NaN among them are ignored."""
    return float(np.exp(np.nanmean(np.log(values)))) if not np.isnan(values).all() else np.nan


def median_seconds(report: BenchmarkReport, competitor: str) -> Float64:
    """Return the medians of a competitor's seconds, one per case; NaN where it has none."""
    seconds = {row.case: row.seconds for row in report.results if row.competitor == competitor and row.seconds}
    return np.array([statistics.median(seconds.get(case, [np.nan])) for case in report.cases], np.float64)


def accuracy_of(report: BenchmarkReport, competitor: str) -> dict[str, float] | None:
    """Return macro `dsc` and `nsd` in [0, 1] from the run's own cases, else those given to the run, else None."""
    rows = [row for row in report.results if row.competitor == competitor and row.dsc is not None]
    if not rows:
        given = report.competitors[competitor].accuracy
        return dict(given) if given else None
    known = [(report.cases[row.case].modality, np.array([row.dsc, row.nsd], np.float64)) for row in rows]
    return dict(zip(("dsc", "nsd"), macro_average(known).tolist(), strict=True))


def failures(report: BenchmarkReport) -> list[str]:
    """Return a line for everything that has no times and should have."""
    competitors = report.competitors
    lines = [f"{one.title}: {one.failed}" for one in competitors.values() if one.failed]
    lines += [f"{row.case}, {competitors[row.competitor].title}: {row.error}" for row in report.results if row.error]
    lines += [f"{one.case}, cold, {one.title}: {one.error}" for one in report.cold if one.error]
    return lines + [f"{name}: {error}" for name, error in report.errors.items()]


def markdown(report: BenchmarkReport) -> str:
    """Return all tables with what is needed to read them."""
    ratios = [ratios_table(report, reference) for reference in (BASELINE, "daft") if reference in report.competitors]
    tables = [seconds_table(report), *ratios, competitors_table(report), cold_table(report)]
    filled = [str(table) for table in tables if {cell for row in table.rows for cell in row[1:]} - {EMPTY}]
    capped = [name for name, case in report.cases.items() if case.stride > 1]
    return render("benchmark.md.j2", report=report, tables=filled, capped=capped, failures=failures(report))


def _number(value: float | None, digits: int) -> str:
    """Format with a number of digits below 10 and one above; `-` for None and NaN."""
    return EMPTY if value is None or np.isnan(value) else f"{value:.{digits if value < 10 else 1}f}"


def seconds_table(report: BenchmarkReport) -> Table:
    """Return seconds by case and competitor, the paper's beside them; (n) is the number of runs."""
    runs = {(row.case, row.competitor): row.seconds for row in report.results if row.seconds}
    paper = any(case.paper_s for case in report.cases.values())
    rows = []
    for name, case in report.cases.items():
        size = "x".join(map(str, case.whole_shape)) + ("" if case.stride == 1 else f" 1/{case.stride}")
        cells = [name, size, str(case.objects), str(case.object_slices)]
        cells += [f"{value:.2f}" for value in case.paper_s] if case.paper_s else [EMPTY, EMPTY] if paper else []
        for seconds in (runs.get((name, competitor)) for competitor in report.competitors):
            cells.append(f"{_number(statistics.median(seconds), 3)} ({len(seconds)})" if seconds else EMPTY)
        rows.append(cells)
    columns = ["case", "size", "objects", "masks", *(["paper: baseline", "paper: proposed"] if paper else [])]
    titles = [one.title for one in report.competitors.values()]
    return Table("Seconds a case, warm (runs)", [*columns, *titles], rows)


def ratios_table(report: BenchmarkReport, reference: str) -> Table:
    """Return how many times as fast as the reference each competitor is, by case and over all cases."""
    theirs = median_seconds(report, reference)
    others = {name: one.title for name, one in report.competitors.items() if name != reference}
    columns = {title: theirs / median_seconds(report, name) for name, title in others.items()}
    if reference == BASELINE and any(case.paper_s for case in report.cases.values()):
        paper = np.array([case.paper_s or (np.nan, np.nan) for case in report.cases.values()], np.float64)
        columns = {"paper: proposed": paper[:, 0] / paper[:, 1], **columns}
    values = {case: [column[index] for column in columns.values()] for index, case in enumerate(report.cases)}
    spreads: dict[str, Any] = {"min": np.min, "median": np.median, "max": np.max, "geometric mean": geometric_mean}
    known = [column[~np.isnan(column)] for column in columns.values()]
    values |= {name: [reduce(one) if len(one) else np.nan for one in known] for name, reduce in spreads.items()}
    rows = [[name, *(_number(float(value), 2) for value in found)] for name, found in values.items()]
    return Table(f"Times as fast as {report.competitors[reference].title}", ["case", *columns], rows)


def competitors_table(report: BenchmarkReport) -> Table:
    """Return what is not by case: loading, files, memory, accuracy."""
    rows = []
    for name, one in report.competitors.items():
        found = [row for row in report.results if row.competitor == name and row.seconds]
        peak = max((row.peak_bytes or 0 for row in found), default=0)
        accuracy = accuracy_of(report, name)
        scores = ["not measured"] * 2 if accuracy is None else [f"{100 * accuracy[key]:.2f}" for key in ("dsc", "nsd")]
        seconds = [geometric_mean(median_seconds(report, name)), one.load_s]
        seconds += [sum(row.read_s or 0 for row in found) or None, sum(row.write_s or 0 for row in found) or None]
        memory = f"{peak / (1 << 20):.0f}" if peak else EMPTY
        rows.append([one.title, str(len(found)), *(_number(value, 3) for value in seconds), memory, *scores])
    columns = ["competitor", "cases", "geometric mean s", "load s", "read s", "write s", "peak MiB", "DSC", "NSD"]
    return Table("Competitors: files are read and written outside the times, all cases together", columns, rows)


def cold_table(report: BenchmarkReport) -> Table:
    """Return seconds from a process's start to its end."""
    baseline = {one.case: statistics.median(one.seconds) for one in report.cold if one.name == BASELINE and one.seconds}
    rows = []
    for one in report.cold:
        numbers = [function(one.seconds or [np.nan]) for function in (min, statistics.median, max)]
        ratio = baseline.get(one.case, np.nan) / numbers[1]
        rows.append([one.case, one.title, str(len(one.seconds)), *(_number(n, 3) for n in numbers), _number(ratio, 2)])
    columns = ["case", "command", "runs", "min s", "median s", "max s", "times as fast as LiteMedSAM's"]
    return Table("Cold: a process per case, from its start to its end, round-robin", columns, rows, labels=2)


def write_seconds_chart(report: BenchmarkReport, path: Path) -> None:
    """Draw a bar for every case and competitor, seconds on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 1.1 * len(report.cases) + 1.5), 5.0), layout="constrained")
    axes = figure.subplots()
    width = 0.85 / max(len(report.competitors), 1)
    for index, (name, one) in enumerate(report.competitors.items()):
        places = np.arange(len(report.cases)) + (index - (len(report.competitors) - 1) / 2) * width
        axes.bar(places, median_seconds(report, name), width, color=_colour(report, name), label=one.title)
    axes.set(yscale="log", ylabel="seconds a case, warm (log)", xlim=(-0.6, len(report.cases) - 0.4))
    axes.yaxis.set_major_formatter("{x:g}")
    sizes = {name: "x".join(map(str, case.shape)) for name, case in report.cases.items()}
    labels = [f"{n.partition('_')[2]}\n{sizes[n]}\n{case.objects} obj." for n, case in report.cases.items()]
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.grid(axis="y", which="major", alpha=0.4)
    axes.set_axisbelow(True)
    axes.set_title(f"{report.machine['cpu']}, {report.settings['threads']} threads; lower is faster", fontsize=10)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    save_figure(figure, path)


def points(report: BenchmarkReport) -> list[tuple[float, float, str]]:
    """Return geometric mean of the seconds, DSC in per cent, and name of every competitor that has both."""
    accuracies = {name: accuracy for name in report.competitors if (accuracy := accuracy_of(report, name))}
    found = [(geometric_mean(median_seconds(report, n)), 100 * one["dsc"], n) for n, one in accuracies.items()]
    return sorted(point for point in found if not np.isnan(point[0]))


def write_accuracy_chart(report: BenchmarkReport, path: Path) -> None:
    """Draw macro DSC over the geometric mean of the seconds, at least one of `points`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (seconds, dsc, name) in enumerate(points(report)):
        axes.scatter(seconds, dsc, s=60, color=_colour(report, name), zorder=3)
        title, place = report.competitors[name].title, (0, 9 if index % 2 else -15)
        axes.annotate(title, (seconds, dsc), textcoords="offset points", xytext=place, ha="center", fontsize=8)
    axes.set(xscale="log", xlabel="seconds a case, warm, geometric mean (log)", ylabel="DSC (%), macro average")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5, 7)))
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(0.2)
    axes.grid(which="major", alpha=0.4)
    save_figure(figure, path)


def _colour(report: BenchmarkReport, competitor: str) -> str:
    others = [name for name in report.competitors if name != BASELINE]
    return "#666666" if competitor == BASELINE else COLOURS[others.index(competitor) % len(COLOURS)]
