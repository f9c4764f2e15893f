"""Times of the contenders on a case, taken in turns, warm: from arrays in memory to masks in memory."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.benchmarking.cases import BenchmarkCase, smallest_part
from graysam.benchmarking.contenders import PEER, Contender
from graysam.benchmarking.harness import Worker, WorkerError
from graysam.io.cases import read_segs
from graysam.metrics.challenge import case_metrics

# Voxels in which the peer may differ from graysam's masks of the same network, as a share of the foreground: rounding
# moves a boundary's pixel, and in a volume the box that follows from it.
TOLERANCE_2D, TOLERANCE_3D = 0.001, 0.005
_SETTLING_SECONDS = 0.05  # between two contenders: the threads of the last one go to sleep


@dataclass(frozen=True)
class Repeats:
    """As many timed runs as fit into `seconds`, at least one and at most `most`."""

    most: int
    seconds: float

    def after(self, first: float) -> int:
        """Return the number of runs, the first of which took so many seconds."""
        return max(1, min(self.most, int(self.seconds / max(first, 1e-9))))


@dataclass
class Result:
    """What one contender did on one case.

    seconds: of the timed runs; read_s, write_s: of the case file and the masks; peak_bytes: of resident memory while
    it had the case, `peak_since_case` False where the system counts since the process's start only; found: boxes
    whose label is in the masks; differing: voxels unlike graysam's masks of the same network, for the peer; dsc, nsd:
    against the case's own masks; error: why there are no times.
    """

    contender: str
    case: str
    seconds: list[float] = field(default_factory=list)
    read_s: float | None = None
    write_s: float | None = None
    peak_bytes: int | None = None
    peak_since_case: bool = True
    found: int | None = None
    differing: int | None = None
    foreground: int | None = None
    dsc: float | None = None
    nsd: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Runner:
    """A contender and its process."""

    contender: Contender
    worker: Worker


def warm_up(case: BenchmarkCase, runners: Sequence[Runner], checker: Worker | None, folder: Path) -> dict[str, str]:
    """Let every network run once on the least of a case, and check the peer's masks; return who failed, and why."""
    part = smallest_part(case)
    path = folder / "warm_up.npz"
    part.write(path)
    results = {runner.contender.name: Result(runner.contender.name, part.name) for runner in runners}
    expected = _expected(checker, path, folder, results)
    failures = {name: result.error for name, result in results.items() if result.error}
    for runner in runners:
        result = results[runner.contender.name]
        if result.error:
            continue
        try:
            runner.worker.ask("read", path=str(path))
            runner.worker.ask("segment")
            _inspect(runner, part, result, expected, folder)
        except WorkerError as error:
            failures[runner.contender.name] = str(error)
    return failures


def time_case(
    case: BenchmarkCase, runners: Sequence[Runner], checker: Worker | None, folder: Path, repeats: Repeats
) -> list[Result]:
    """Time all contenders on a case, run by run in turns, and look at the masks of each first timed run.

    checker: a worker whose masks the peer's must equal; without it they are not checked. A contender that fails has
    its error in its result, and the others go on. Arrays travel through `folder`.
    """
    path = folder / "case.npz"
    case.write(path)
    results = {runner.contender.name: Result(runner.contender.name, case.name) for runner in runners}
    expected = _expected(checker, path, folder, results)
    ready = []
    for runner in runners:
        result = results[runner.contender.name]
        if not result.error and _read(runner, path, result):
            ready.append(runner)
    left = {runner.contender.name: 1 for runner in ready}
    while any(left.values()):
        for runner in ready:
            if left[runner.contender.name]:
                left[runner.contender.name] = _run(runner, case, results, expected, folder, repeats)
        ready = [*ready[1:], ready[0]]  # nobody always comes after the same one
    return list(results.values())


def _expected(checker: Worker | None, path: Path, folder: Path, results: Mapping[str, Result]) -> NDArray[Any] | None:
    """Return the masks that the peer's must equal; where they cannot be made, the peer has failed."""
    if checker is None or PEER not in results:
        return None
    target = folder / "expected.npz"
    try:
        checker.ask("read", path=str(path))
        checker.ask("segment")
        checker.ask("write", path=str(target))
    except WorkerError as error:
        results[PEER].error = f"graysam's masks of the same network, to check it with, could not be made: {error}"
        return None
    return read_segs(target)


def _read(runner: Runner, path: Path, result: Result) -> bool:
    """Let a contender take the case into memory and get warm on it; False where it failed."""
    try:
        answer = runner.worker.ask("read", path=str(path))
        result.read_s = answer["seconds"]
        if not runner.contender.warm_once:
            runner.worker.ask("segment")
    except WorkerError as error:
        result.error = str(error)
    return not result.error


def _run(
    runner: Runner,
    case: BenchmarkCase,
    results: dict[str, Result],
    expected: NDArray[Any] | None,
    folder: Path,
    repeats: Repeats,
) -> int:
    """Take one time; return how many runs are still to come."""
    result = results[runner.contender.name]
    time.sleep(_SETTLING_SECONDS)
    try:
        result.seconds.append(runner.worker.ask("segment")["seconds"])
        if len(result.seconds) == 1:
            _inspect(runner, case, result, expected, folder)
    except WorkerError as error:
        result.seconds, result.error = [], str(error)
        return 0
    return repeats.after(result.seconds[0]) - len(result.seconds)


def _inspect(runner: Runner, case: BenchmarkCase, result: Result, expected: NDArray[Any] | None, folder: Path) -> None:
    """Have the masks written, and put what they hold into the result.

    Raises:
        WorkerError: writing failed, or the peer's masks are not graysam's.
    """
    target = folder / "segs.npz"
    answer = runner.worker.ask("write", path=str(target))
    result.write_s, result.peak_bytes = answer["seconds"], answer["peak_bytes"]
    segs = read_segs(target)
    target.unlink()
    result.found = int(np.count_nonzero(np.unique(segs)))
    if case.gts is not None and runner.contender.trained and case.stride == 1:
        scores = case_metrics(case.gts, segs, case.spacing_mm)
        result.dsc, result.nsd = scores.dsc, scores.nsd
    if expected is None or runner.contender.name != PEER:
        return
    result.differing = int(np.count_nonzero(segs != expected))
    result.foreground = int(np.count_nonzero(expected))
    allowed = (TOLERANCE_3D if case.is_volume else TOLERANCE_2D) * max(result.foreground, 1)
    if result.differing > allowed:
        raise WorkerError(
            f"its masks differ from graysam's in {result.differing} voxels of {result.foreground} in the foreground, "
            "so it is not the network it should be",
            exited=False,
        )
