"""The timing harness: round-robin order, repeats, and worker processes that fail or are stopped."""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from graysam.benchmarking.harness import Worker, time_round_robin
from graysam.benchmarking.running import SEGMENTER
from tests.support.exported_models import write_tiny_exported


def test_runs_are_interleaved_and_the_order_rotates() -> None:
    log: list[str] = []

    def competitor(name: str) -> Callable[[], Mapping[str, float]]:
        def run() -> Mapping[str, float]:
            log.append(name)
            if name == "bad":
                raise ChildProcessError("broke")
            return {"seconds": 1.0}

        return run

    competitors = {name: competitor(name) for name in ("a", "b", "c", "bad")}
    timed, errors = time_round_robin(competitors, warmup=1, repeats=2)
    assert log == ["a", "b", "c", "bad", "b", "c", "a", "c", "a", "b"]
    assert [len(timed[name]) for name in competitors] == [2, 2, 2, 0]
    assert errors == {"bad": "broke"}


@pytest.mark.parametrize(("seconds", "runs"), [(0.01, 7), (1.0, 3), (2.0, 1), (60.0, 1)])
def test_slow_runs_are_repeated_less(seconds: float, runs: int) -> None:
    timed, _ = time_round_robin({"a": lambda: {"seconds": seconds}}, repeats=7, warmup=0, limit_s=3.0)
    assert len(timed["a"]) == runs


def test_a_worker_that_fails_or_is_killed_is_reported_and_leaves_no_process(tmp_path: Path) -> None:
    write_tiny_exported(tmp_path / "plain", plain=True)
    with Worker(SEGMENTER, threads=1, engine="one_box", exported=str(tmp_path / "plain")) as worker:
        for _ in range(2):  # the next request may succeed
            with pytest.raises(ChildProcessError, match=r"absent\.npz"):
                worker.ask("read", path="absent.npz")
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(ChildProcessError, match="SIGKILL"):
            worker.ask("segment")
    assert worker.process.returncode is not None
    with pytest.raises(ChildProcessError, match=r"^[^\n]*absent[^\n]*$"):
        Worker(SEGMENTER, threads=1, engine="one_box", exported=str(tmp_path / "absent"))


def die(threads: int, code: int) -> None:
    print("first line\nwhat went wrong", file=sys.stderr, flush=True)
    os._exit(code)


def test_a_worker_that_ends_itself_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ChildProcessError, match=r"^what went wrong$"):
        Worker(f"{__name__}:die", threads=1, code=3)
    assert capsys.readouterr().err == "first line\nwhat went wrong\n"
