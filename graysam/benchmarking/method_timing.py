"""Times of the quantization methods of one checkpoint, measured by the timing harness in a fresh process."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.benchmarking.harness import Worker, WorkerError, spread, time_round_robin
from graysam.inference.backend import decode_all
from graysam.reporting.schemas import TIMES
from graysam.system.terminal import progress

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Times:
    """torch's threads in the worker, and method -> measure (TIMES) -> median, min, max, n."""

    threads: int
    by_method: dict[str, dict[str, dict[str, float]]]


def time_methods(
    checkpoint: Path,
    methods: Sequence[str],
    prompts: Sequence[tuple[Float32, Float32]],
    *,
    stored: Path,
    threads: int,
    repeats: int,
    warmup: int,
) -> Times:
    """Time quantization methods of a checkpoint's model on images with their boxes.

    Args:
        checkpoint: a graysam checkpoint, which describes its model.
        methods: names of available quantization methods; without any, no process is started.
        prompts: images (3,S,S) and their boxes (N,4), N at least 1, in pixels of the S grid.
        stored: directory with one folder per method that stores something, as `prepare` left it.
        threads: CPU threads.
        repeats: timed runs per image and method.
        warmup: runs before them.

    Returns:
        `encoder_ms` to encode one image, `decoder_ms` to decode one box, and `image_ms` to encode one image and decode
        all its boxes; each from arrays in memory to arrays in memory.

    Raises:
        WorkerError: the timing process failed.
    """
    if not methods:
        return Times(threads, {})
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory(prefix="graysam_timing_") as folder:
        path = Path(folder) / "prompts.npz"
        arrays = {
            f"{what}_{i}": array for i, pair in enumerate(prompts) for what, array in zip("ib", pair, strict=True)
        }
        np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's stubs take the keywords for its flag
        options: dict[str, Any] = {"checkpoint": str(checkpoint), "methods": list(methods), "stored": str(stored)}
        with Worker(f"{__name__}:QuantizedModels", threads=threads, prompts=str(path), **options) as worker:
            actual = worker.ask("threads")["threads"]
            for index in progress(range(len(prompts)), "timing"):
                competitors = {name: partial(worker.ask, "measure", method=name, index=index) for name in methods}
                for name, timed in time_round_robin(competitors, repeats=repeats, warmup=warmup).items():
                    if timed.error:
                        raise WorkerError(f"timing {name} failed: {timed.error}", exited=False)
                    runs[name] += [dict(run) for run in timed.runs]
    by_method = {
        name: {measure: spread([run[measure] for run in found]) for measure in TIMES} for name, found in runs.items()
    }
    return Times(actual, by_method)


class QuantizedModels:
    """In the worker: one checkpoint's model prepared by several quantization methods."""

    def __init__(self, threads: int, checkpoint: str, methods: Sequence[str], stored: str, prompts: str) -> None:
        import torch

        from graysam.exporting.methods import open_prepared
        from graysam.models.pretrained import open_pretrained

        torch.set_num_threads(threads)
        model = open_pretrained(checkpoint).model
        self._backends = {name: open_prepared(name, model, Path(stored) / name, threads) for name in methods}
        with np.load(prompts, allow_pickle=False) as arrays:
            self._prompts = [(arrays[f"i_{i}"], arrays[f"b_{i}"]) for i in range(len(arrays.files) // 2)]

    def threads(self) -> dict[str, Any]:
        """Return the number of threads that torch uses."""
        import torch

        return {"threads": torch.get_num_threads()}

    def measure(self, method: str, index: int) -> dict[str, float]:
        """Segment the prompt of the index once by a method; return TIMES, and `seconds` for the whole image."""
        backend, (image, boxes) = self._backends[method], self._prompts[index]
        start = time.perf_counter()
        embedding = backend.encode(image[None])[0]
        encoded = time.perf_counter()
        for _ in decode_all(backend, embedding, boxes):
            pass
        segmented = time.perf_counter()
        backend.decode(embedding, boxes[:1])
        decoded = time.perf_counter()
        seconds = (encoded - start, decoded - segmented, segmented - start)
        measured = {name: 1000 * value for name, value in zip(TIMES, seconds, strict=True)}
        return {**measured, "seconds": segmented - start}
