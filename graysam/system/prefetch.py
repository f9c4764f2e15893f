"""Reading the next case and writing the last one while a case is computed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Content = TypeVar("Content")


class Prefetcher(Generic[Item, Content]):
    """Goes through items in order: the next one is read and the last one written while one is computed.

    items: what to go through; none are fine. read(item): runs in a thread of its own, and from the moment the object
    is made, e.g. while a model is loaded. At most three items are in memory at a time.

    A context manager: leaving it waits for the threads.
    """

    def __init__(self, items: Sequence[Item], read: Callable[[Item], Content]) -> None:
        self._items, self._read = items, read
        self._reader, self._writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
        self._next = self._reading(0)

    def __enter__(self) -> "Prefetcher[Item, Content]":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()

    def run(self, compute: Callable[[Item, Content], Callable[[], object]]) -> Iterator[tuple[Item, Exception | None]]:
        """Yield every item with what went wrong with it, None where all went well.

        compute(item, what was read): runs in the caller's thread and returns what is to be called for writing, in a
        thread of its own. The item before is waited for first, so that results never pile up.
        """
        behind: tuple[Item, Future[object]] | None = None
        for index, item in enumerate(self._items):
            try:
                write = compute(item, self._take(index))
            except Exception as error:  # the caller knows which ones it expects
                write = _raising(error)
            if behind is not None:
                yield behind[0], _error(behind[1])
            behind = item, self._writer.submit(write)
            del write  # with it goes the result, once it is written
        if behind is not None:
            yield behind[0], _error(behind[1])

    def _reading(self, index: int) -> Future[Content] | None:
        return self._reader.submit(self._read, self._items[index]) if index < len(self._items) else None

    def _take(self, index: int) -> Content:
        reading, self._next = self._next, self._reading(index + 1)
        assert reading is not None  # there is one for every index
        return reading.result()


def _raising(error: Exception) -> Callable[[], object]:
    def write() -> None:
        raise error

    return write


def _error(writing: Future[object]) -> Exception | None:
    error = writing.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error
