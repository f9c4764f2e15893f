"""Times of the quantization methods of one checkpoint, measured by the timing harness in a fresh process."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graysam.benchmarking.harness import Worker, time_round_robin
from graysam.inference.backend import decode_all
from graysam.reporting.schemas import TIMES
from graysam.system.terminal import progress

Float32 = NDArray[np.float32]


def time_methods(
    checkpoint: Path,
    methods: Sequence[str],
    prompts: Sequence[tuple[Float32, Float32]],
    *,
    stored: Path,
    threads: int,
    repeats: int,
    warmup: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """Time quantization methods of a checkpoint's model on images with their boxes.

    Args:
        checkpoint: a graysam checkpoint, which describes its model.
        methods: names of available quantization methods.
        prompts: images (3,S,S) and their boxes (N,4), N at least 1, in pixels of the S grid.
        stored: directory with one folder per method that stores something, as `prepare` left it.
        threads, repeats, warmup: CPU threads, timed runs per image and method, and runs before them.

    Returns:
        Method -> measure -> median, min, max, n. `encoder_ms` to encode one image, `decoder_ms` to decode one box, and
        `image_ms` to encode one image and decode all its boxes; each from arrays in memory to arrays in memory.

    Raises:
        ChildProcessError: the timing process failed.
    """
    runs: dict[str, list[Mapping[str, float]]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory(prefix="graysam_timing_") as folder:
        path = Path(folder) / "prompts.npz"
        np.savez(path, *(array for prompt in prompts for array in prompt))
        files = {"checkpoint": str(checkpoint), "stored": str(stored), "prompts": str(path)}
        with Worker(f"{__name__}:QuantizedModels", threads=threads, methods=list(methods), **files) as worker:
            for index in progress(range(len(prompts)), "timing"):
                competitors = {name: partial(worker.ask, "measure", method=name, index=index) for name in methods}
                found, errors = time_round_robin(competitors, repeats=repeats, warmup=warmup)
                for name, error in errors.items():
                    raise ChildProcessError(f"timing {name} failed: {error}")
                for name in methods:
                    runs[name] += found[name]
    times: dict[str, dict[str, dict[str, float]]] = {name: {} for name in methods}
    for name, measure in itertools.product(methods, TIMES):
        ms = [run[measure] for run in runs[name]]
        times[name][measure] = {"median": statistics.median(ms), "min": min(ms), "max": max(ms), "n": len(ms)}
    return times


class QuantizedModels:
    """In the worker: one checkpoint's model prepared by several quantization methods."""

    def __init__(self, threads: int, checkpoint: str, methods: Sequence[str], stored: str, prompts: str) -> None:
        import torch

        from graysam.exporting.methods import open_prepared
        from graysam.models.registry import open_pretrained

        torch.set_num_threads(threads)
        model = open_pretrained(checkpoint).model
        self._backends = {name: open_prepared(name, model, Path(stored) / name, threads) for name in methods}
        with np.load(prompts, allow_pickle=False) as arrays:
            self._prompts = list(arrays.values())

    def measure(self, method: str, index: int) -> dict[str, float]:
        """Segment the prompt of the index once by a method, and return TIMES."""
        backend, (image, boxes) = self._backends[method], self._prompts[2 * index : 2 * index + 2]
        start = time.perf_counter()
        embedding = backend.encode(image[None])[0]
        encoded = time.perf_counter()
        for _ in decode_all(backend, embedding, boxes):
            pass
        segmented = time.perf_counter()
        backend.decode(embedding, boxes[:1])
        decoded = time.perf_counter()
        seconds = (encoded - start, decoded - segmented, segmented - start)
        return {name: 1000 * value for name, value in zip(TIMES, seconds, strict=True)}
