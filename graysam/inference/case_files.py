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
from graysam.system.outputs import OutputFolder
from graysam.system.terminal import one_line, progress

Item = TypeVar("Item")
Content = TypeVar("Content")


def find_case_files(input: Path, output: Path, overlay: Path | None, *, overwrite: bool = False) -> list[Path]:
    """Return the NPZ files of the input directory, sorted; raise ValueError for directories that cannot be used."""
    paths = case_paths(input, "-i")
    if output.exists() and output.samefile(input):
        raise ValueError(f"-o {output} is the input directory, whose cases would be overwritten; give another")
    for folder, suffix in _result_folders(output, overlay):
        folder.check([path.stem + suffix for path in paths], paths, overwrite=overwrite)
    return paths


def _result_folders(output: Path, overlay: Path | None) -> list[tuple[OutputFolder, str]]:
    """Return the folders of results, and the suffix of those."""
    pictures = [] if overlay is None else [(OutputFolder(overlay, "--overlay"), ".png")]
    return [(OutputFolder(output), ".npz"), *pictures]


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

    What was changed in a case goes to standard error. At most three cases are in memory at a time. What an earlier run
    wrote for a case that fails is removed.

    Args:
        cases, count: as `read_ahead` returns them, and how many they are.
        writer: where they are written, of one thread.
        predictor, options: the model, and options of its `predict`.
        output, overlay: directories for an NPZ with segs and a PNG a case; None writes no PNG.
    """
    failures: list[str] = []
    writing: list[tuple[Path, Future[None]]] = []  # one at most
    folders = _result_folders(output, overlay)

    @contextmanager
    def noted(path: Path) -> Iterator[None]:
        """Note why a case failed, unless by a mistake of ours."""
        try:
            yield
            return
        except MemoryError:
            reason = "does not fit into memory; crop the case or use a larger machine"
        except (ValueError, OSError, RuntimeError, cv2.error) as error:  # torch: out of memory is RuntimeError
            reason = one_line(error).removeprefix(f"{path}: ")
        stale = (folder.remove_stale(path.stem + suffix) for folder, suffix in folders)
        failures.append(f"{path.name}: {reason}{''.join(stale)}")

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
        writing.append((path, writer.submit(_write, path, case, labels, folders)))

    for path, reading in progress(cases, "predicting", count):
        with noted(path):
            segment(path, reading.result())
    finish()
    return sorted(failures)


def _write(path: Path, case: Case, labels: NDArray[np.uint16], folders: list[tuple[OutputFolder, str]]) -> None:
    for folder, suffix in folders:
        target = folder.path / (path.stem + suffix)
        if suffix == ".npz":
            write_mask(target, labels)
        else:
            from graysam.imaging.drawing import draw_overlay, write_picture  # only here: not needed without pictures

            write_picture(target, draw_overlay(case.image.pixels, labels, case.boxes, caption=case.image.name))
        folder.record(target.name, path)
