"""Measure where a command's time goes, from the start of its process on."""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.inference.backend import Backend

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.floating[Any]]
PARTS = ("imports", "model", "read", "preprocess", "encode", "decode", "masks", "write")


def seconds_since_start() -> float | None:
    """Return the seconds since this process was started, to a hundredth; None outside Linux."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            started_ticks = int(file.read().rpartition(")")[2].split()[19])  # field 22, proc(5)
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None


class Stopwatch:
    """Adds up seconds by part; every moment since it was made belongs to one of them.

    Args:
        parts: their names, in the order in which they are printed.
        since_start: seconds before it was made, which count for the first part.
    """

    def __init__(self, parts: Sequence[str], since_start: float | None = None) -> None:
        self.seconds = dict.fromkeys(parts, 0.0)
        self.seconds[parts[0]] += since_start or 0.0
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last lap for a part."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def describe(self) -> str:
        """Return one line: the parts and their sum, in seconds."""
        parts = ", ".join(f"{part} {seconds:.3f}" for part, seconds in self.seconds.items())
        return f"{parts}; in all {sum(self.seconds.values()):.3f} s"


class TimedBackend:
    """A backend that laps a stopwatch: `preprocess` before an encode, `encode`, `decode`, and `masks` in between."""

    def __init__(self, backend: Backend, watch: Stopwatch) -> None:
        self.backend, self.watch = backend, watch

    def encode(self, images: Float32Array) -> FloatArray:
        self.watch.lap("preprocess")
        embeddings = self.backend.encode(images)
        self.watch.lap("encode")
        return embeddings

    def decode(
        self, embedding: FloatArray, grid_boxes: Float32Array, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32Array, Float32Array]:
        self.watch.lap("masks")
        result = self.backend.decode(embedding, grid_boxes, valid_size)
        self.watch.lap("decode")
        return result
