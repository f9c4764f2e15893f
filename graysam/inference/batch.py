"""Segment a folder of case files, reading the next and writing the last case while one is computed."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.inference.predictor import Predictor
from graysam.inference.stopwatch import Stopwatch
from graysam.inference.volume import Propagation
from graysam.io.cases import Case, CaseError, read_input_case
from graysam.io.image import write_mask
from graysam.system.prefetch import Prefetcher
from graysam.system.terminal import one_line, progress


@dataclass(frozen=True)
class Batch:
    """Which cases are segmented, how, and where the masks go.

    Attributes:
        input: directory of NPZ with imgs and boxes.
        output: directory for NPZ of the same names with segs; made where missing.
        overlay: directory for a PNG a case; None writes none.
        propagation, z_max_inclusive: see `Predictor.predict`.
    """

    input: Path
    output: Path
    overlay: Path | None = None
    propagation: Propagation = "own"
    z_max_inclusive: bool = True

    def check(self) -> list[Path]:
        """Return the case files, sorted.

        Raises:
            ValueError: folders that cannot be used.
        """
        if not self.input.is_dir():
            raise ValueError(f"{self.input} is not a directory; give -i a directory of NPZ files")
        paths = sorted(self.input.glob("*.npz"))
        if not paths:
            raise ValueError(f"{self.input} holds no .npz file; give -i a directory of NPZ files with imgs and boxes")
        if self.output.resolve() == self.input.resolve():
            raise ValueError(f"-o {self.output} is the input directory, whose cases would be overwritten; give another")
        for option, folder in (("-o", self.output), ("--overlay", self.overlay)):
            if folder is not None and folder.exists() and not folder.is_dir():
                raise ValueError(f"{option} {folder} is a file; give a directory's name")
        return paths

    def reading(self, paths: Sequence[Path]) -> Prefetcher[Path, Case]:
        """Start reading the first case, e.g. while the model is loaded."""
        return Prefetcher(paths, partial(read_input_case, z_max_inclusive=self.z_max_inclusive))

    def make_folders(self) -> None:
        """Make the output directories. Raises OSError as the file system does."""
        for folder in (self.output, self.overlay):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)

    def segment(
        self, paths: Sequence[Path], cases: Prefetcher[Path, Case], predictor: Predictor, watch: Stopwatch
    ) -> Iterator[str]:
        """Segment all cases and yield a line for each that failed; what was changed in a case goes to standard error.

        Args:
            paths: as `check` returns them.
            cases: as `reading` returns them.
            predictor: the model.
            watch: gets the laps `read`, `masks` and `write`.
        """
        done = cases.run(partial(self._segment_case, predictor, watch))
        for path, error in progress(done, "predicting", total=len(paths)):
            watch.lap("write")
            if isinstance(error, MemoryError):
                yield f"{path.name}: does not fit into memory; crop the case or use a larger machine"
            elif isinstance(
                error, (ValueError, OSError, RuntimeError, cv2.error)
            ):  # torch: out of memory is RuntimeError
                yield f"{path.name}: {one_line(error).removeprefix(f'{path}: ')}"
            elif error is not None:
                raise error

    def _segment_case(self, predictor: Predictor, watch: Stopwatch, path: Path, case: Case) -> Callable[[], None]:
        watch.lap("read")
        if case.boxes is None:
            raise CaseError(f"{path}: no boxes")
        labels = predictor.predict(
            case.image, case.boxes, propagation=self.propagation, z_max_inclusive=self.z_max_inclusive
        )
        for note in case.notes:
            print(f"note: {path.name}: {note}", file=sys.stderr)
        watch.lap("masks")
        return partial(self._write, path, case, labels)

    def _write(self, path: Path, case: Case, labels: NDArray[np.uint16]) -> None:
        write_mask(self.output / path.name, labels)
        if self.overlay is not None:
            from graysam.imaging.drawing import draw_overlay, write_picture

            image = case.image
            overlay = draw_overlay(image.pixels, labels, case.boxes, caption=image.name)
            write_picture(self.overlay / f"{path.stem}.png", overlay)
