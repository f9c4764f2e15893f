"""The benchmark's tables: times, ratios, memory and cold starts, from its report to Markdown."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from graysam.metrics.aggregation import macro_average
from graysam.reporting.schemas import BenchmarkedCase, BenchmarkReport, CaseTimes
from graysam.reporting.tables import EMPTY, Table

BASELINE = "litemedsam"
REFERENCES = (BASELINE, "daft")  # ratios are given to each of these
BUSY_LOAD = 0.5  # mean number of processes in the minute before
_MIB = 1 << 20

Float64 = NDArray[np.float64]


def geometric_mean(values: Float64) -> float:
    """Return the geometric mean of positive values."""
    from scipy.stats import gmean  # takes a second to import

    return float(gmean(values))


_SPREADS: Mapping[str, Callable[[Float64], float]] = {
    "min": np.min,
    "median": np.median,
    "max": np.max,
    "geometric mean": geometric_mean,
}


def result_of(report: BenchmarkReport, competitor: str, case: str) -> CaseTimes | None:
    """Return the results of a competitor on a case, None where there are none."""
    found = (row for row in report.results if (row.competitor, row.case) == (competitor, case))
    return next(found, None)


def median_seconds(report: BenchmarkReport, competitor: str) -> Float64:
    """Return the medians of a competitor's seconds, one per case; NaN where it has none."""
    rows = (result_of(report, competitor, case) for case in report.cases)
    return np.array([statistics.median(row.seconds) if row and row.seconds else np.nan for row in rows], np.float64)


def paper_ratios(report: BenchmarkReport) -> Float64:
    """Return the paper's baseline seconds over its proposed model's, one per case; NaN where unknown."""
    times = (case.paper_s or (np.nan, 1.0) for case in report.cases.values())
    return np.array([baseline / proposed for baseline, proposed in times], np.float64)


def accuracy_of(report: BenchmarkReport, competitor: str) -> dict[str, float] | None:
    """Return macro `dsc` and `nsd` in [0, 1] from the run's own cases, else those given to the run, else None."""
    rows = [row for row in report.results if row.competitor == competitor and row.dsc is not None]
    if not rows:
        given = report.competitors[competitor].accuracy
        return dict(given) if given else None
    known = [(report.cases[row.case].modality, np.array([row.dsc, row.nsd], np.float64)) for row in rows]
    dsc, nsd = macro_average(known).tolist()
    return {"dsc": dsc, "nsd": nsd}


def accuracy_is_given(report: BenchmarkReport) -> bool:
    """Check whether the accuracy of any competitor is of other cases than the run's."""
    scored = {row.competitor for row in report.results if row.dsc is not None}
    return any(one.accuracy and name not in scored for name, one in report.competitors.items())


def failures(report: BenchmarkReport) -> list[str]:
    """Return a line for everything that has no times and should have."""
    competitors = report.competitors
    lines = [f"{one.title}: {one.failed}" for one in competitors.values() if one.failed]
    lines += [f"{row.case}, {competitors[row.competitor].title}: {row.error}" for row in report.results if row.error]
    lines += [f"{one.case}, cold, {one.title}: {one.error}" for one in report.cold if one.error]
    return lines + [f"{name}: {error}" for name, error in report.errors.items()]


def markdown(report: BenchmarkReport) -> str:
    """Return all tables with what is needed to read them."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("graysam.reporting")
    environment = Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    checked = [row for row in report.results if row.foreground is not None]
    return environment.get_template("benchmark.md.j2").render(
        report=report,
        tables=[table.markdown() for table in _tables(report) if table.rows],
        busy=(report.machine.get("load") or 0) > BUSY_LOAD,
        capped=[name for name, case in report.cases.items() if case.stride > 1],
        paper=any(case.paper_s for case in report.cases.values()),
        accuracy_is_given=accuracy_is_given(report),
        checked=checked,
        differing=sum(row.differing or 0 for row in checked),
        foreground=sum(row.foreground or 0 for row in checked),
        found=_found(report),
        failures=failures(report),
    )


def _found(report: BenchmarkReport) -> list[str]:
    """Return the share of boxes with a mask of each trained competitor that segmented all cases."""
    boxes, lines = sum(case.objects for case in report.cases.values()), []
    for name, one in report.competitors.items():
        found = [row.found for row in report.results if row.competitor == name and row.found is not None]
        if found and len(found) == len(report.cases):
            lines.append(f"{one.title} {100 * sum(found) / boxes:.1f} %")
    return lines


def _number(value: float | None, digits: int) -> str:
    """Format with a number of digits below 10 and one above; `-` for None and NaN."""
    return EMPTY if value is None or np.isnan(value) else f"{value:.{digits if value < 10 else 1}f}"


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _tables(report: BenchmarkReport) -> list[Table]:
    ratios = (ratios_table(report, reference) for reference in REFERENCES if reference in report.competitors)
    return [
        seconds_table(report),
        *(table for table in ratios if any(cell != EMPTY for row in table.rows for cell in row[1:])),
        competitors_table(report),
        memory_table(report),
        cold_table(report),
        cold_parts_table(report),
        *_earlier_tables(report),
    ]


def _titles(report: BenchmarkReport) -> list[str]:
    return [one.title for one in report.competitors.values()]


def _size(case: BenchmarkedCase) -> str:
    return "x".join(map(str, case.whole_shape)) + ("" if case.stride == 1 else f" 1/{case.stride}")


def seconds_table(report: BenchmarkReport) -> Table:
    """Return seconds by case and competitor, the paper's beside them; (n) is the number of runs."""
    paper = any(case.paper_s for case in report.cases.values())
    rows = []
    for name, case in report.cases.items():
        cells = [name, _size(case), str(case.objects), str(case.object_slices)]
        cells += [f"{value:.2f}" for value in case.paper_s] if case.paper_s else [EMPTY, EMPTY] if paper else []
        for competitor in report.competitors:
            row = result_of(report, competitor, name)
            seconds = row.seconds if row else []
            cells.append(f"{_number(statistics.median(seconds), 3)} ({len(seconds)})" if seconds else EMPTY)
        rows.append(cells)
    columns = ["case", "size", "objects", "masks", *(["paper: baseline", "paper: proposed"] if paper else [])]
    return Table("Seconds a case, warm (runs)", [*columns, *_titles(report)], rows)


def ratios_table(report: BenchmarkReport, reference: str) -> Table:
    """Return how many times as fast as the reference each competitor is, by case and over all cases."""
    theirs = median_seconds(report, reference)
    columns = {
        one.title: theirs / median_seconds(report, name)
        for name, one in report.competitors.items()
        if name != reference
    }
    if reference == BASELINE and any(case.paper_s for case in report.cases.values()):
        columns = {"paper: proposed": paper_ratios(report), **columns}
    rows = [
        [case, *(_number(float(column[index]), 2) for column in columns.values())]
        for index, case in enumerate(report.cases)
    ]
    for name, reduce in _SPREADS.items():
        known = (column[~np.isnan(column)] for column in columns.values())
        rows.append([name, *(_number(float(reduce(one)) if len(one) else None, 2) for one in known)])
    return Table(f"Times as fast as {report.competitors[reference].title}", ["case", *columns], rows)


def geometric_mean_s(report: BenchmarkReport, competitor: str) -> float | None:
    """Return the geometric mean over cases of a competitor's median seconds, None where it has none."""
    seconds = median_seconds(report, competitor)
    known = seconds[~np.isnan(seconds)]
    return geometric_mean(known) if len(known) else None


def competitors_table(report: BenchmarkReport) -> Table:
    """Return what is not by case: loading, files, memory, accuracy."""
    rows = []
    for name, one in report.competitors.items():
        found = [row for row in report.results if row.competitor == name and row.seconds]
        peaks = [row.peak_bytes / _MIB for row in found if row.peak_bytes is not None]
        accuracy = accuracy_of(report, name)
        scores = ["not measured"] * 2 if accuracy is None else [f"{100 * accuracy[key]:.2f}" for key in ("dsc", "nsd")]
        seconds = [geometric_mean_s(report, name), one.load_s]
        seconds += [_sum(row.read_s for row in found), _sum(row.write_s for row in found)]
        peak = f"{max(peaks):.0f}" if peaks else EMPTY
        rows.append([one.title, str(len(found)), *(_number(value, 3) for value in seconds), peak, *scores])
    columns = ["competitor", "cases", "geometric mean s", "load s", "read s", "write s", "peak MiB", "DSC", "NSD"]
    return Table("Competitors: files are read and written outside the times, all cases together", columns, rows)


def memory_table(report: BenchmarkReport) -> Table:
    """Return the peak of resident memory by case and competitor."""
    rows = []
    for case in report.cases:
        found = (result_of(report, name, case) for name in report.competitors)
        rows.append([case, *(f"{row.peak_bytes / _MIB:.0f}" if row and row.peak_bytes else EMPTY for row in found)])
    return Table("Peak of resident memory while the case was in memory, MiB", ["case", *_titles(report)], rows)


def cold_table(report: BenchmarkReport) -> Table:
    """Return seconds from a process's start to its end."""
    baseline = {one.case: statistics.median(one.seconds) for one in report.cold if one.name == BASELINE and one.seconds}
    rows = []
    for one in report.cold:
        numbers: Sequence[float | None] = (None, None, None)
        if one.seconds:
            numbers = (min(one.seconds), statistics.median(one.seconds), max(one.seconds))
        ratio = baseline[one.case] / numbers[1] if one.case in baseline and numbers[1] else None
        rows.append([one.case, one.title, str(len(one.seconds)), *(_number(n, 3) for n in numbers), _number(ratio, 2)])
    columns = ["case", "command", "runs", "min s", "median s", "max s", "times as fast as LiteMedSAM's"]
    return Table("Cold: a process per case, from its start to its end, round-robin", columns, rows, labels=2)


def cold_parts_table(report: BenchmarkReport) -> Table:
    """Return the phases that graysam's own commands report of their last run."""
    timed = [one for one in report.cold if one.parts]
    parts = list(dict.fromkeys(part for one in timed for part in one.parts))
    rows = [[one.case, one.title, *(_number(one.parts.get(part), 3) for part in parts)] for one in timed]
    return Table("Cold: phases of the last run, s", ["case", "command", *parts], rows, labels=2)


def _earlier_tables(report: BenchmarkReport) -> list[Table]:
    """Return the matrix-product peaks and the encoders' speed that documents of earlier versions hold."""
    peaks: list[Sequence[str]] = [
        [precision, one["ran_in"], f"{one['gops']:.0f}", str(one["side"])] for precision, one in report.peaks.items()
    ]
    columns = ["precision", "executed as", "GOP/s", "matrix side"]
    tables = [Table("The machine's matrix-product peak in OpenVINO", columns, peaks, labels=2)]
    encoders = []
    for name, one in report.profiles.items():
        peak = report.peaks.get(one["peak"])
        share = f"{100 * one['gops'] / peak['gops']:.0f} %" if peak else EMPTY
        numbers = [f"{1000 * one['seconds']:.1f}", f"{one['gmac']:.2f}", f"{one['gops']:.0f}"]
        encoders.append([report.competitors[name].title, one["peak"], *numbers, share])
    columns = ["competitor", "peak of", "ms an image", "GMAC", "GOP/s", "of the peak"]
    return [*tables, Table("Image encoders alone (2 operations a MAC)", columns, encoders, labels=2)]
