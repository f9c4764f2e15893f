"""Segment a folder of case files, reading the next and writing the last case while one is computed."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.inference.predictor import Predictor
from graysam.inference.stopwatch import Stopwatch
from graysam.io.cases import Case
from graysam.io.image import write_mask
from graysam.system.terminal import one_line, progress

Item = TypeVar("Item")
Content = TypeVar("Content")


def find_case_files(input: Path, output: Path, overlay: Path | None) -> list[Path]:
    """Return the NPZ files of the input directory, sorted; raise ValueError for directories that cannot be used."""
    if not input.is_dir():
        raise ValueError(f"{input} is not a directory; give -i a directory of NPZ files")
    paths = sorted(input.glob("*.npz"))
    if not paths:
        raise ValueError(f"{input} holds no .npz file; give -i a directory of NPZ files with imgs and boxes")
    if output.resolve() == input.resolve():
        raise ValueError(f"-o {output} is the input directory, whose cases would be overwritten; give another")
    for option, folder in (("-o", output), ("--overlay", overlay)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ValueError(f"{option} {folder} is a file; give a directory's name")
    return paths


def read_ahead(
    items: Sequence[Item], read: Callable[[Item], Content], pool: Executor
) -> "Iterator[tuple[Item, Future[Content]]]":
    """Return an iterator over items and their contents; the first is being read already, and then always the next."""
    started = [pool.submit(read, items[0])]

    def contents() -> "Iterator[tuple[Item, Future[Content]]]":
        for index, item in enumerate(items):
            reading = started.pop()
            started.extend(pool.submit(read, following) for following in items[index + 1 : index + 2])
            yield item, reading

    return contents()


def segment_case_files(
    cases: "Iterator[tuple[Path, Future[Case]]]",
    count: int,
    pool: Executor,
    predictor: Predictor,
    watch: Stopwatch,
    output: Path,
    overlay: Path | None = None,
    **options: Any,
) -> Iterator[str]:
    """Segment all cases and yield a line for each that failed; what was changed in a case goes to standard error.

    Args:
        cases: as `read_ahead` returns them.
        count: of the cases.
        pool: where they are read and written, of at least two threads.
        predictor: the model.
        watch: gets the laps `read`, `masks` and `write`.
        output: directory for NPZ of the same names with segs.
        overlay: directory for a PNG a case; None writes none.
        options: of `Predictor.predict`.
    """

    def segment(path: Path, case: Case) -> Callable[[], None]:
        watch.lap("read")
        assert case.boxes is not None  # as in every case to be segmented
        labels = predictor.predict(case.image, case.boxes, **options)
        for note in case.notes:
            print(f"note: {path.name}: {note}", file=sys.stderr)
        watch.lap("masks")
        return partial(_write, path.stem, case, labels, output, overlay)

    for path, error in progress(write_behind(cases, segment, pool), "predicting", count):
        watch.lap("write")
        if isinstance(error, MemoryError):
            yield f"{path.name}: does not fit into memory; crop the case or use a larger machine"
        elif isinstance(error, (ValueError, OSError, RuntimeError, cv2.error)):  # torch: out of memory is RuntimeError
            yield f"{path.name}: {one_line(error).removeprefix(f'{path}: ')}"
        elif error is not None:
            raise error


def write_behind(
    items: "Iterator[tuple[Item, Future[Content]]]",
    compute: Callable[[Item, Content], Callable[[], object]],
    pool: Executor,
) -> Iterator[tuple[Item, BaseException | None]]:
    """Yield every item with the exception that it raised, or None.

    `compute` runs in the caller's thread and returns what writes the result, which runs in the pool beside the next
    computation. With `read_ahead`, at most three items are in memory at a time.
    """
    writing: list[tuple[Item, Future[object]]] = []
    for item, reading in items:
        try:
            write = compute(item, reading.result())
        except Exception as error:
            write = partial(_raise, error)
        for written, future in writing:  # waits, so that results do not accumulate
            yield written, future.exception()
        writing = [(item, pool.submit(write))]
        del write  # with it goes the result, once it is written
    for written, future in writing:
        yield written, future.exception()


def _raise(error: Exception) -> None:
    raise error


def _write(name: str, case: Case, labels: NDArray[np.uint16], output: Path, overlay: Path | None) -> None:
    write_mask(output / f"{name}.npz", labels)
    if overlay is not None:
        from graysam.imaging.drawing import draw_overlay, write_picture  # only here: it is not needed without pictures

        picture = draw_overlay(case.image.pixels, labels, case.boxes, caption=case.image.name)
        write_picture(overlay / f"{name}.png", picture)
