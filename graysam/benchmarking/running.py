"""One run of the benchmark: processes up, cases through, one document out."""

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graysam.benchmarking import cold
from graysam.benchmarking.cases import BenchmarkCase, CaseSource, cap_slices
from graysam.benchmarking.contenders import PEER, Contender
from graysam.benchmarking.harness import Worker, WorkerError, environment
from graysam.benchmarking.machine import describe
from graysam.benchmarking.results import FORMAT, as_rows, describe_case
from graysam.benchmarking.timing import Repeats, Result, Runner, time_case, warm_up
from graysam.inference.exported_model import read_exported
from graysam.system.terminal import one_line, progress

SEGMENTERS = "graysam.benchmarking.segmenters"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to run.

    threads: of the CPU, for every contender. slices: that boxes of a volume need, None for all. repeats: timed runs.
    check: whether the peer's masks must equal graysam's. cold_repeats: timed processes a command, 0 for none;
    cold_cases: words of the names of the cases for that. peaks: whether to measure the machine and the encoders alone.
    load: the machine's, before anything of this run began; None for unknown.
    """

    threads: int
    slices: int | None
    repeats: Repeats
    check: bool
    cold_repeats: int
    cold_cases: Sequence[str]
    peaks: bool
    load: float | None = None


@dataclass(frozen=True)
class Entry:
    """A contender, the folder of its bundle where it runs one, and scores known from elsewhere (fractions).

    problem: why it cannot take part, empty if it can.
    """

    contender: Contender
    bundle: Path | None = None
    accuracy: Mapping[str, float] | None = None
    problem: str = ""


def run(sources: Sequence[CaseSource], entries: Sequence[Entry], options: Options, say: Say) -> dict[str, Any]:
    """Time the contenders on the cases and return the document, plain containers throughout.

    say: takes a line for the user after every case. Whatever fails is in the document and stops nothing else.
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "machine": {**describe(), "load": options.load},
        "settings": {
            "threads": options.threads,
            "slices": options.slices,
            "repeats": options.repeats.most,
            "repeat_seconds": options.repeats.seconds,
        },
        "contenders": {entry.contender.name: _described(entry) for entry in entries},
        "cases": {},
        "results": [],
        "peaks": {},
        "profiles": {},
        "cold": [],
        "troubles": {},
    }
    if options.peaks:
        _measure_peaks(document, options.threads)
    with tempfile.TemporaryDirectory(prefix="graysam_benchmark_") as folder, ExitStack() as stack:
        runners, checker = _open(document, entries, options, stack, Path(folder))
        _time_cases(document, sources, runners, checker, options, Path(folder), say)
        if options.peaks:
            _profile(document, runners)
            _measure_peaks(document, options.threads)
    if options.cold_repeats:
        _start_cold(document, sources, entries, options, say)
    return document


def _described(entry: Entry) -> dict[str, Any]:
    contender = entry.contender
    return {
        "title": contender.title,
        "engine": contender.engine,
        "trained": contender.trained,
        "bundle": None if entry.bundle is None else _bundle_facts(entry.bundle),
        "accuracy": None if entry.accuracy is None else dict(entry.accuracy),
        "load_s": None,
        "failed": entry.problem,
    }


def _bundle_facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"folder": path.name}  # not where it lies: records are read elsewhere
    with suppress(ValueError):  # which the contender's own process will run into, and tell
        description = read_exported(path).description
        facts |= {key: description.get(key) for key in ("name", "kind", "precision", "size", "source")}
    return facts


def _measure_peaks(document: dict[str, Any], threads: int) -> None:
    """Measure the machine, and keep the better of this and an earlier time: a peak is what it can do undisturbed."""
    command = [sys.executable, "-m", "graysam.benchmarking.machine", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(threads))
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        document["troubles"]["the machine's peak"] = said[-1]
        return
    for precision, peak in json.loads(done.stdout).items():
        known = document["peaks"].get(precision)
        if known is None or known["gops"] < peak["gops"]:
            document["peaks"][precision] = peak


def _open(
    document: dict[str, Any], entries: Sequence[Entry], options: Options, stack: ExitStack, folder: Path
) -> tuple[list[Runner], Worker | None]:
    runners: list[Runner] = []
    for entry in entries:
        contender, described = entry.contender, document["contenders"][entry.contender.name]
        if entry.problem:
            continue
        try:
            worker = stack.enter_context(
                Worker(
                    f"{SEGMENTERS}:open_{contender.engine}",
                    threads=options.threads,
                    **({} if entry.bundle is None else {"exported": str(entry.bundle)}),
                )
            )
        except WorkerError as error:
            described["failed"] = str(error)
            continue
        described["load_s"] = worker.open_s
        runners.append(Runner(contender, worker))
    checker = None
    if options.check and any(runner.contender.name == PEER for runner in runners):
        try:
            checker = stack.enter_context(Worker(f"{SEGMENTERS}:open_reference", threads=options.threads))
        except WorkerError as error:
            document["contenders"][PEER]["failed"] = f"what its masks are checked with failed: {error}"
            runners = [runner for runner in runners if runner.contender.name != PEER]
    return runners, checker


def _time_cases(
    document: dict[str, Any],
    sources: Sequence[CaseSource],
    runners: list[Runner],
    checker: Worker | None,
    options: Options,
    folder: Path,
    say: Say,
) -> None:
    warm = False
    for source in progress(sources, "timing"):
        try:
            case = cap_slices(source.build(), options.slices)
        except (ValueError, OSError, MemoryError) as error:
            document["troubles"][source.name] = one_line(error)
            continue
        if not warm:
            _drop(document, runners, warm_up(case, runners, checker, folder))
            warm = True
        if not runners:
            return
        results = time_case(case, runners, checker, folder, options.repeats)
        document["cases"][case.name] = describe_case(case)
        document["results"] += as_rows(results)
        gone = {
            result.contender: result.error
            for result in results
            for runner in runners
            if runner.contender.name == result.contender and runner.worker.process.poll() is not None
        }
        _drop(document, runners, gone)
        say(_line(case, results))


def _drop(document: dict[str, Any], runners: list[Runner], failed: Mapping[str, str]) -> None:
    """Leave out the contenders that cannot go on."""
    for name, why in failed.items():
        document["contenders"][name]["failed"] = why
    runners[:] = [runner for runner in runners if runner.contender.name not in failed]


def _line(case: BenchmarkCase, results: Sequence[Result]) -> str:
    parts = []
    for result in results:
        took = f"{statistics.median(result.seconds):.3f}" if result.seconds else "failed"
        parts.append(f"{result.contender} {took}")
        if result.differing is not None:
            parts[-1] += f" ({result.differing} of {result.foreground} voxels unlike graysam's)"
    return f"{case.name} [{len(case.boxes)} boxes, {case.object_slices} masks]: {', '.join(parts)}"


def _profile(document: dict[str, Any], runners: Sequence[Runner]) -> None:
    for runner in runners:
        if runner.contender.model is None:
            continue
        try:
            document["profiles"][runner.contender.name] = runner.worker.ask("profile")
        except WorkerError as error:
            document["troubles"][f"profile of {runner.contender.title}"] = str(error)


def _start_cold(
    document: dict[str, Any], sources: Sequence[CaseSource], entries: Sequence[Entry], options: Options, say: Say
) -> None:
    bundles = {entry.contender.name: entry.bundle for entry in entries if entry.bundle is not None}
    usable = [entry.contender for entry in entries if not document["contenders"][entry.contender.name]["failed"]]
    for source in sources:
        if source.name not in document["cases"] or not any(word in source.name for word in options.cold_cases):
            continue
        case = cap_slices(source.build(), options.slices)
        with tempfile.TemporaryDirectory(prefix="graysam_cache_") as cache:
            commands = cold.starts(usable, bundles, options.threads, Path(cache))
            found = cold.time_starts(case, commands, options.cold_repeats, options.threads)
        document["cold"] += found
        for entry in found:
            took = f"{statistics.median(entry['seconds']):.2f} s" if entry["seconds"] else entry["error"]
            say(f"{case.name}, cold, {entry['title']}: {took}")
