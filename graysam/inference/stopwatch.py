"""Measure where a command's time goes, from the start of its process on."""

import os
import sys
import time
from pathlib import Path

from graysam.inference.backend import Backend, Float32Array, FloatArray

PARTS = ("imports", "model", "read", "preprocess", "encode", "decode", "masks", "write")


def seconds_since_start() -> float:
    """Return the seconds since this process was started, to a hundredth; 0 outside of Linux."""
    if sys.platform != "linux":
        return 0.0
    started_ticks = int(Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()[19])  # proc(5)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


class Stopwatch:
    """Adds up seconds by PARTS; every moment since the process was started belongs to one of them."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.seconds["imports"] = seconds_since_start()
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
