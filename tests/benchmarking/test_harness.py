"""The timing harness: round-robin order, repeats, and worker processes that fail or are stopped."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graysam.benchmarking.harness import Worker, WorkerError, spread, time_round_robin
from tests.support.commands import BOXES_2D, image_2d, write_case
from tests.support.exported_models import write_tiny_exported

ONE_BOX = "graysam.benchmarking.segmenters:open_one_box"


@pytest.fixture
def plain(tmp_path: Path) -> str:
    write_tiny_exported(tmp_path / "plain", plain=True)
    return str(tmp_path / "plain")


def test_runs_are_interleaved_and_the_order_rotates() -> None:
    log: list[str] = []

    def competitor(name: str, fails: bool = False) -> Callable[[], Mapping[str, float]]:
        def run() -> Mapping[str, float]:
            log.append(name)
            if fails:
                raise WorkerError("broke", exited=False)
            return {"seconds": 1.0}

        return run

    competitors = {name: competitor(name) for name in "abc"} | {"bad": competitor("bad", fails=True)}
    timed = time_round_robin(competitors, warmup=1, repeats=2)
    assert log == ["a", "b", "c", "bad", "b", "c", "a", "c", "a", "b"]
    assert [len(timed[name].runs) for name in competitors] == [2, 2, 2, 0]
    assert timed["bad"].error == "broke"


@pytest.mark.parametrize(("seconds", "runs"), [(0.01, 7), (1.0, 3), (2.0, 1), (60.0, 1)])
def test_slow_runs_are_repeated_less(seconds: float, runs: int) -> None:
    timed = time_round_robin({"a": lambda: {"seconds": seconds}}, repeats=7, limit_s=3.0)
    assert len(timed["a"].runs) == runs


def test_the_spread_of_values() -> None:
    assert spread([4.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 4.0, "n": 3}


def test_a_worker_that_is_killed_is_reported_and_leaves_no_process(plain: str) -> None:
    with Worker(ONE_BOX, threads=1, exported=plain) as worker:
        with pytest.raises(WorkerError, match=r"absent\.npz") as failed:
            worker.ask("read", path="absent.npz")
        assert not failed.value.exited, "the next request may succeed"
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="SIGKILL") as died:
            worker.ask("segment")
        assert died.value.exited
    assert worker.process.returncode is not None


def test_a_target_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"^[^\n]*absent[^\n]*$") as failed:
        Worker(ONE_BOX, threads=1, exported=str(tmp_path / "absent"))
    assert failed.value.exited


def test_a_worker_ends_with_its_input_during_a_request(tmp_path: Path, plain: str) -> None:
    """So that none outlives a benchmark that was killed."""
    boxes: Any = np.tile(np.insert(np.insert(BOXES_2D[:1], 2, 0, axis=1), 5, 99, axis=1), (400, 1))
    path = write_case(tmp_path, "3DBox_MR_1", imgs=np.stack([image_2d()] * 100), boxes=boxes, spacing=np.ones(3))
    with Worker(ONE_BOX, threads=1, exported=plain) as worker:
        worker.ask("read", path=str(path))
        assert worker.process.stdin is not None
        worker.process.stdin.write('{"request": "segment"}\n')  # 40000 masks
        worker.process.stdin.close()
        assert worker.process.wait(60) == 0
