"""Segment a folder of case files, reading the next and writing the last while one is computed."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.inference.predictor import Predictor
from graysam.io.cases import Case
from graysam.io.image import write_mask
from graysam.io.listing import case_paths
from graysam.system.terminal import one_line, progress

Item = TypeVar("Item")
Content = TypeVar("Content")


def find_case_files(input: Path, output: Path, overlay: Path | None) -> list[Path]:
    """Return the NPZ files of the input directory, sorted; raise ValueError for directories that cannot be used."""
    paths = case_paths(input, "-i")
    if output.resolve() == input.resolve():
        raise ValueError(f"-o {output} is the input directory, whose cases would be overwritten; give another")
    for option, folder in (("-o", output), ("--overlay", overlay)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ValueError(f"{option} {folder} is a file; give a directory's name")
    return paths


def read_ahead(
    items: Sequence[Item], read: Callable[[Item], Content], reader: Executor
) -> "Iterator[tuple[Item, Future[Content]]]":
    """Return an iterator over items and their contents; the first is being read already, and then always the next."""
    started = [reader.submit(read, items[0])]

    def contents() -> "Iterator[tuple[Item, Future[Content]]]":
        for index, item in enumerate(items):
            reading = started.pop()
            started.extend(reader.submit(read, following) for following in items[index + 1 : index + 2])
            yield item, reading

    return contents()


def segment_case_files(
    cases: "Iterator[tuple[Path, Future[Case]]]",
    count: int,
    writer: Executor,
    predictor: Predictor,
    *,
    output: Path,
    overlay: Path | None = None,
    **options: Any,
) -> list[str]:
    """Segment all cases, each written beside the next computation, and return a line for each that failed.

    What was changed in a case goes to standard error. At most three cases are in memory at a time.

    Args:
        cases, count: as `read_ahead` returns them, and how many they are.
        writer: where they are written, of one thread.
        predictor, options: the model, and options of its `predict`.
        output, overlay: directories for an NPZ with segs and a PNG a case; None writes no PNG.
    """
    failures: list[str] = []
    writing: list[tuple[Path, Future[None]]] = []  # one at most

    @contextmanager
    def noted(path: Path) -> Iterator[None]:
        """Note why a case failed, unless by a mistake of ours."""
        try:
            yield
        except MemoryError:
            failures.append(f"{path.name}: does not fit into memory; crop the case or use a larger machine")
        except (ValueError, OSError, RuntimeError, cv2.error) as error:  # torch: out of memory is RuntimeError
            failures.append(f"{path.name}: {one_line(error).removeprefix(f'{path}: ')}")

    def finish() -> None:
        """Wait until the last case is written."""
        while writing:
            path, future = writing.pop()
            with noted(path):
                future.result()

    def segment(path: Path, case: Case) -> None:
        """Segment a case and start to write it once the last one is written."""
        assert case.boxes is not None  # as in every case to be segmented
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            labels = predictor.predict(case.image, case.boxes, **options)
        warned = (str(warning.message).removeprefix(f"{path.stem}: ") for warning in caught)
        for note in dict.fromkeys((*case.notes, *warned)):
            print(f"note: {path.name}: {note}", file=sys.stderr)
        finish()
        writing.append((path, writer.submit(_write, path.stem, case, labels, output, overlay)))

    for path, reading in progress(cases, "predicting", count):
        with noted(path):
            segment(path, reading.result())
    finish()
    return sorted(failures)


def _write(name: str, case: Case, labels: NDArray[np.uint16], output: Path, overlay: Path | None) -> None:
    write_mask(output / f"{name}.npz", labels)
    if overlay is not None:
        from graysam.imaging.drawing import draw_overlay, write_picture  # only here: it is not needed without pictures

        picture = draw_overlay(case.image.pixels, labels, case.boxes, caption=case.image.name)
        write_picture(overlay / f"{name}.png", picture)
