"""Reading ahead and writing behind: in order, bounded, and every failure at its own item."""

import threading
import weakref
from collections.abc import Callable

import pytest

from graysam.system.prefetch import Prefetcher


class Content:
    """Something that may be held too long."""

    def __init__(self, item: int) -> None:
        self.item = item


def test_items_come_in_order_and_are_written_by_then() -> None:
    written: list[int] = []

    def compute(item: int, content: int) -> Callable[[], object]:
        assert content == 10 * item
        return lambda: written.append(content)

    with Prefetcher(range(5), lambda item: 10 * item) as items:
        for item, error in items.run(compute):
            assert error is None
            assert written[item] == 10 * item
    assert written == [0, 10, 20, 30, 40]


def test_nothing_to_do_is_nothing_done() -> None:
    with Prefetcher([], lambda item: item) as items:
        assert list(items.run(lambda item, content: lambda: None)) == []


def test_the_next_is_read_and_the_last_written_while_one_is_computed() -> None:
    """Each step waits for what must run beside it, so that this ends only where they really overlap."""
    reads, writes = [threading.Event() for _ in range(4)], [threading.Event() for _ in range(4)]

    def read(item: int) -> int:
        reads[item].set()
        return item

    def compute(item: int, content: int) -> Callable[[], object]:
        if item + 1 < 4:
            assert reads[item + 1].wait(10)
        if item > 0:
            assert writes[item - 1].wait(10)
        return writes[item].set

    with Prefetcher(range(4), read) as items:
        assert reads[0].wait(10)  # before anything is asked for
        assert [error for _, error in items.run(compute)] == [None] * 4


def test_three_items_are_in_memory_at_most() -> None:
    alive: weakref.WeakSet[Content] = weakref.WeakSet()
    most = 0

    def read(item: int) -> Content:
        content = Content(item)
        alive.add(content)
        return content

    def compute(item: int, content: Content) -> Callable[[], object]:
        nonlocal most
        most = max(most, len(alive))
        assert content.item == item
        return lambda: content.item

    with Prefetcher(range(20), read) as items:
        for _ in items.run(compute):
            pass
    assert 1 <= most <= 3
    assert not alive


@pytest.mark.parametrize("where", ["read", "compute", "write"])
@pytest.mark.parametrize("kind", [ValueError, MemoryError, OSError])
def test_what_fails_is_told_of_its_item_alone(where: str, kind: type[Exception]) -> None:
    written: list[int] = []

    def fail(item: int, step: str) -> None:
        if (item, step) == (1, where):
            raise kind("no")

    def compute(item: int, content: int) -> Callable[[], object]:
        fail(item, "compute")

        def write() -> None:
            fail(item, "write")
            written.append(item)

        return write

    def read(item: int) -> int:
        fail(item, "read")
        return item

    with Prefetcher(range(4), read) as items:
        outcomes = [(item, type(error)) for item, error in items.run(compute)]
    assert outcomes == [(0, type(None)), (1, kind), (2, type(None)), (3, type(None))]
    assert written == [0, 2, 3]


def test_leaving_early_ends_the_threads() -> None:
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), Prefetcher(range(9), lambda item: item) as items:
        for _ in items.run(lambda item, content: lambda: None):
            raise KeyboardInterrupt
    assert threading.active_count() == before
