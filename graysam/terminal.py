"""Progress of long work: a bar on a terminal, plain lines where there is none."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
PLAIN_SECONDS = 10.0  # between two lines of plain text


def progress(items: Iterable[Item], title: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and show on the standard error how many are done.

    Args:
        items: anything to go through; empty shows nothing.
        title: what is being done, e.g. `packing`.
        total: how many there are; None takes len(items).
    """
    count = len(items) if total is None else total  # type: ignore[arg-type]
    if sys.stderr.isatty():
        yield from tqdm(items, total=count, desc=title, unit="case")
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if done == count or time.monotonic() - last > PLAIN_SECONDS:
            last = time.monotonic()
            print(f"{title}: {done} of {count} cases", file=sys.stderr, flush=True)
