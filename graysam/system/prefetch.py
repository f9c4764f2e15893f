"""Read the next item and write the last one while one is computed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

Item = TypeVar("Item")
Content = TypeVar("Content")


class Prefetcher(Generic[Item, Content]):
    """Process items in order: the next one is read and the last one written, each in a thread, while one is computed.

    At most three items are in memory at a time. A context manager: leaving it waits for the threads.

    Args:
        items: what to process; may be empty.
        read: loads an item; starts with the first when the object is made, e.g. while a model is loaded.
    """

    def __init__(self, items: Sequence[Item], read: Callable[[Item], Content]) -> None:
        self._items, self._read = items, read
        self._reader, self._writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")
        self._next = [self._reader.submit(read, item) for item in items[:1]]

    def __enter__(self) -> "Prefetcher[Item, Content]":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()

    def run(self, compute: Callable[[Item, Content], Callable[[], object]]) -> Iterator[tuple[Item, Exception | None]]:
        """Yield every item with the exception that it raised, or None.

        Args:
            compute: takes an item and what was read, runs in the caller's thread and returns what writes the result.
                The item before is waited for first, so that results do not accumulate.
        """
        writing: list[tuple[Item, Future[object]]] = []
        for index, item in enumerate(self._items):
            reading = self._next.pop()
            self._next += [
                self._reader.submit(self._read, following) for following in self._items[index + 1 : index + 2]
            ]
            try:
                write = compute(item, reading.result())
            except Exception as error:  # the caller knows which ones it expects
                write = partial(_reraise, error)
            del reading
            yield from _finished(writing)
            writing.append((item, self._writer.submit(write)))
            del write  # with it goes the result, once it is written
        yield from _finished(writing)


def _reraise(error: Exception) -> None:
    raise error


def _finished(writing: list[tuple[Item, Future[object]]]) -> Iterator[tuple[Item, Exception | None]]:
    """Wait for what is written, yield it with its error, and empty the list."""
    while writing:
        item, future = writing.pop()
        error = future.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        yield item, error
