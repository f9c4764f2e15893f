"""Case files are read ahead and written behind: in order, bounded, and every failure at its own case."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graysam.inference import case_files
from graysam.inference.case_files import read_ahead, segment_case_files


class Content:
    """What is read from the file of a number, and may be held too long."""

    boxes, notes = (), ()

    def __init__(self, path: Path) -> None:
        self.image = int(path.stem)


@pytest.fixture
def segment_all(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return what segments `count` cases by three functions of their number."""

    def run(count: int, read: Callable[[Path], Any], compute: Callable[[int], Any], write: Any) -> list[str]:
        monkeypatch.setattr(case_files, "_write", lambda name, case, *_: write(case.image))
        predictor: Any = SimpleNamespace(predict=lambda image, boxes: compute(image))
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            cases = read_ahead([Path(f"{number}.npz") for number in range(count)], read, reader)
            return segment_case_files(cases, count, writer, predictor, output=Path("out"))

    return run


def test_the_next_is_read_and_the_last_written_while_one_is_computed(segment_all: Callable[..., list[str]]) -> None:
    """Each step waits for what must run beside it, so that this ends only where they really overlap."""
    reads, writes = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def read(path: Path) -> Content:
        reads[int(path.stem)].set()
        return Content(path)

    def compute(number: int) -> None:
        assert number + 1 == 4 or reads[number + 1].wait(10)
        assert number == 0 or writes[number - 1].wait(10)

    assert segment_all(4, read, compute, lambda number: writes[number].set()) == []
    assert writes[3].is_set()


def test_three_cases_are_in_memory_at_most(segment_all: Callable[..., list[str]]) -> None:
    alive: weakref.WeakSet[Content] = weakref.WeakSet()
    counts = []

    def read(path: Path) -> Content:
        content = Content(path)
        alive.add(content)
        return content

    assert segment_all(20, read, lambda _: counts.append(len(alive)), lambda _: None) == []
    assert len(counts) == 20 and max(counts) <= 3
    assert not alive


@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_what_fails_is_reported_with_its_case_alone(segment_all: Callable[..., list[str]], where: str) -> None:
    written: list[int] = []

    def fail(number: int, step: str) -> int:
        if (number, step) == (1, where):
            raise ValueError("no")
        return number

    def read(path: Path) -> Content:
        fail(int(path.stem), "read")
        return Content(path)

    failures = segment_all(4, read, lambda n: fail(n, "compute"), lambda n: written.append(fail(n, "write")))
    assert failures == ["1.npz: no"]
    assert written == [0, 2, 3]
