"""Warm times of the competitors on a case, from arrays in memory to masks in memory, and what their masks hold."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.harness import Run, Worker, WorkerError, time_round_robin
from graysam.io.cases import read_segs
from graysam.metrics.challenge import case_metrics
from graysam.reporting.schemas import CaseTimes
from graysam.reporting.speed import BASELINE

REFERENCE = "reference"
# Share of the foreground's voxels in which LiteMedSAM's masks may differ from graysam's of the same network: rounding
# moves a pixel of the boundary, and in a volume the box that follows from it.
TOLERANCE_2D, TOLERANCE_3D = 0.001, 0.005
_PAUSE_S = 0.05  # the threads of the previous competitor go to sleep


def time_case(
    case: BenchmarkCase,
    workers: Mapping[str, Worker],
    folder: Path,
    *,
    repeats: int,
    limit_s: float,
) -> list[CaseTimes]:
    """Time all competitors on a case, round-robin after one run each, and inspect the masks of that first run.

    Args:
        case: what is segmented.
        workers: name of a competitor -> its worker; under REFERENCE one whose masks LiteMedSAM's must equal, if any.
        folder: for the files in which arrays travel.
        repeats, limit_s: see `time_round_robin`.

    Returns:
        Results by competitor; one that failed has its error, and the others continue.
    """
    path, expected = folder / "case.npz", None
    case.write(path)
    results = {name: CaseTimes(competitor=name, case=case.name) for name in workers if name != REFERENCE}
    if REFERENCE in workers and BASELINE in workers:
        try:
            expected = _reference_masks(workers[REFERENCE], path, folder)
        except WorkerError as error:
            results[BASELINE].error = f"graysam's masks of the same network, to check it with, failed: {error}"
    competitors: dict[str, Run] = {}
    for name, result in results.items():
        worker = workers[name]
        try:
            if not result.error:
                result.read_s = worker.ask("read", path=str(path))["seconds"]
                competitors[name] = partial(
                    _run, worker, case, result, expected if name == BASELINE else None, folder / "segs.npz"
                )
        except WorkerError as error:
            result.error = str(error)
    timed = time_round_robin(competitors, warmup=1, repeats=repeats, limit_s=limit_s, pause_s=_PAUSE_S)
    for name, one in timed.items():
        results[name].seconds, results[name].error = [run["seconds"] for run in one.runs], one.error
    return list(results.values())


def _reference_masks(reference: Worker, path: Path, folder: Path) -> NDArray[Any]:
    target = folder / "expected.npz"
    reference.ask("read", path=str(path))
    reference.ask("segment")
    reference.ask("write", path=str(target))
    return read_segs(target)


def _run(
    worker: Worker, case: BenchmarkCase, result: CaseTimes, expected: NDArray[Any] | None, target: Path
) -> Mapping[str, float]:
    """Segment once; the first time, also inspect the masks.

    Raises:
        WorkerError: the worker failed, or the masks differ from those expected.
    """
    measured = worker.ask("segment")
    if result.write_s is None:
        answer = worker.ask("write", path=str(target))
        result.write_s, result.peak_bytes = answer["seconds"], answer["peak_bytes"]
        _inspect(case, result, expected, read_segs(target))
    return measured


def _inspect(case: BenchmarkCase, result: CaseTimes, expected: NDArray[Any] | None, segs: NDArray[Any]) -> None:
    result.found = int(np.count_nonzero(np.unique(segs)))
    if case.gts is not None and case.stride == 1:
        scores = case_metrics(case.gts, segs, case.spacing_mm)
        result.dsc, result.nsd = scores.dsc, scores.nsd
    if expected is None:
        return
    result.differing = int(np.count_nonzero(segs != expected))
    result.foreground = int(np.count_nonzero(expected))
    allowed = (TOLERANCE_3D if case.is_volume else TOLERANCE_2D) * max(result.foreground, 1)
    if result.differing > allowed:
        raise WorkerError(
            f"its masks differ from graysam's in {result.differing} voxels of {result.foreground} in the foreground; "
            f"required: at most {allowed:.0f}, as of the same network",
            exited=False,
        )
