"""Times of the kinds, taken in a fresh process with a fixed number of threads.

A process that has trained holds large pools of memory and threads, and torch's number of threads is best set before its
first work. So `time_methods` starts `python -m graysam.benchmarking.method_timing request.json`, which rebuilds a model
from its checkpoint, opens every kind and prints JSON, one object a line: first its threads, then each measurement.
The kinds take turns on every image, so that whatever else the machine does falls on all of them alike.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graysam.exporting.methods import KINDS, restore
from graysam.inference.volume import Backend, decode_all
from graysam.system.terminal import BAD_INPUT, exit_reason, one_line, progress

Float32 = NDArray[np.float32]
MEASURES = ("encoder_ms", "decoder_ms", "image_ms")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Times:
    """The threads of the process, and `{kind: {"encoder_ms"|"decoder_ms"|"image_ms": {"median","min","max","n"}}}`."""

    threads: int
    by_kind: dict[str, dict[str, dict[str, float]]]


def time_methods(
    checkpoint: Path,
    kinds: Sequence[str],
    prompts: Sequence[tuple[Float32, Float32]],
    *,
    stored: Path,
    threads: int,
    repeats: int,
    warmup: int,
) -> Times:
    """Time kinds of a checkpoint's model on images with their boxes.

    Args:
        checkpoint: one of graysam.
        kinds: names of KINDS that can run here; without any, no process is started.
        prompts: images (3,S,S) and their boxes (N,4), N at least 1, on the S grid.
        stored: folder in which each kind that stores something has one of its name, as `prepare` left it.
        threads: of the CPU.
        repeats: rounds over all images that count; warmup: rounds before them that do not.

    Returns:
        The threads that torch really had, and every kind's times: `encoder_ms` to encode one image, `decoder_ms` to
        decode one box, `image_ms` to encode one image and decode all its boxes as the volume engine does; each from
        arrays in memory to arrays in memory.

    Raises:
        ChildProcessError: the process ended before its time, with its last words.
    """
    if not kinds:
        return Times(threads, {})
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    with tempfile.TemporaryDirectory(prefix="graysam_timing_") as folder:
        arrays = {f"image_{i}": image for i, (image, _) in enumerate(prompts)}
        arrays |= {f"boxes_{i}": boxes for i, (_, boxes) in enumerate(prompts)}
        np.savez(Path(folder) / "prompts.npz", **arrays)  # type: ignore[arg-type]  # it has a flag among its keywords
        request = Path(folder) / "request.json"
        content = {
            "checkpoint": str(checkpoint.resolve()),
            "kinds": list(kinds),
            "stored": str(stored.resolve()),
            "prompts": str(Path(folder) / "prompts.npz"),
            "threads": threads,
            "rounds": warmup + repeats,
        }
        request.write_text(json.dumps(content))
        measured = len(kinds) * len(prompts)
        command = [sys.executable, "-m", "graysam.benchmarking.method_timing", str(request)]
        with (
            (Path(folder) / "words.txt").open("w+", errors="replace") as words,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True, env=environment) as process,
        ):
            try:
                lines = list(progress(process.stdout or (), "timing", total=1 + measured * (warmup + repeats)))
                code = process.wait()
            finally:
                process.kill()
            if code:
                words.seek(0)
                raise ChildProcessError(f"timing {', '.join(kinds)} failed: {exit_reason(words.read(), code)}")
    process_facts, *rows = (json.loads(line) for line in lines)
    counted = rows[measured * warmup :]
    by_kind = {kind: _spread([row for row in counted if row["kind"] == kind]) for kind in kinds}
    return Times(threads=process_facts["threads"], by_kind=by_kind)


def _spread(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    spread = {}
    for measure in MEASURES:
        values = [float(row[measure]) for row in rows]
        spread[measure] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "n": len(values),
        }
    return spread


# ------------------------------------------------------------------ in the fresh process
def _measure(backend: Backend, image: Float32, boxes: Float32) -> dict[str, float]:
    start = time.perf_counter()
    embedding = backend.encode(image[None])[0]
    encoded = time.perf_counter()
    for _ in decode_all(backend, embedding, boxes):
        pass
    segmented = time.perf_counter()
    backend.decode(embedding, boxes[:1])
    decoded = time.perf_counter()
    seconds = (encoded - start, decoded - segmented, segmented - start)
    return {name: 1000 * value for name, value in zip(MEASURES, seconds, strict=True)}


def _measurements(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(request["threads"])
    model, stored = restore(Path(request["checkpoint"])).model, Path(request["stored"])
    backends = [(name, KINDS[name].reopen(model, stored / name, request["threads"])) for name in request["kinds"]]
    with np.load(request["prompts"], allow_pickle=False) as arrays:
        count = len(arrays.files) // 2
        prompts = [(arrays[f"image_{i}"], arrays[f"boxes_{i}"]) for i in range(count)]
    yield {"threads": torch.get_num_threads()}
    for _ in range(request["rounds"]):
        for image, boxes in prompts:
            for name, backend in backends:
                yield {"kind": name, **_measure(backend, image, boxes)}
            backends = [*backends[1:], backends[0]]  # nobody always comes after the same one


def main(argv: Sequence[str]) -> int:
    """Carry out the request in a JSON file and return the exit code."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no answer
    try:
        for line in _measurements(json.loads(Path(argv[0]).read_text())):
            print(json.dumps(line), file=answers, flush=True)
    except (ValueError, OSError, RuntimeError) as error:
        print(one_line(error), file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
