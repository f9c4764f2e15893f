"""Case files are read ahead and written behind: in order, bounded, and every failure at its own item."""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from graysam.inference.case_files import read_ahead, write_behind


def run(count: int, read: Callable[[int], Any], compute: Callable[[int, Any], Any]) -> Iterator[tuple[int, Any]]:
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        yield from write_behind(read_ahead(range(count), read, reader), compute, writer)


def test_the_next_is_read_and_the_last_written_while_one_is_computed() -> None:
    """Each step waits for what must run beside it, so that this ends only where they really overlap."""
    reads, writes = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def read(item: int) -> int:
        reads[item].set()
        return item

    def compute(item: int, content: int) -> Callable[[], object]:
        assert item == content
        if item + 1 < 4:
            assert reads[item + 1].wait(10)
        if item > 0:
            assert writes[item - 1].wait(10)
        return writes[item].set

    for item, error in run(4, read, compute):
        assert error is None
        assert writes[item].is_set()


class Content:
    """Something that may be held too long."""


def test_three_items_are_in_memory_at_most() -> None:
    alive: weakref.WeakSet[Content] = weakref.WeakSet()
    counts = []

    def read(item: int) -> Content:
        content = Content()
        alive.add(content)
        return content

    def compute(item: int, content: Content) -> Callable[[], object]:
        counts.append(len(alive))
        return lambda: id(content)

    assert len(list(run(20, read, compute))) == len(counts) == 20
    assert max(counts) <= 3
    assert not alive


@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_what_fails_is_reported_with_its_item_alone(where: str) -> None:
    written: list[int] = []

    def fail(item: int, step: str) -> int:
        if (item, step) == (1, where):
            raise MemoryError("no")
        return item

    def compute(item: int, content: int) -> Callable[[], object]:
        fail(item, "compute")
        return lambda: written.append(fail(item, "write"))

    outcomes = [(item, type(error)) for item, error in run(4, lambda item: fail(item, "read"), compute)]
    assert outcomes == [(0, type(None)), (1, MemoryError), (2, type(None)), (3, type(None))]
    assert written == [0, 2, 3]
