"""A contender's process: `python -m graysam.benchmarking.worker ENGINE THREADS [BUNDLE]`.

Loads the engine, says so, and then answers requests, one JSON object a line on the standard input and output; arrays
travel through NPZ files. Ends when the input ends, in the middle of its work if need be: then the benchmark is gone.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, TextIO

from graysam.benchmarking.engines import Engine, open_engine
from graysam.benchmarking.memory import peak_bytes, reset_peak
from graysam.system.terminal import BAD_INPUT, one_line


class Requests:
    """Carries out the requests, whose names are its methods', with one case in memory at a time."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine, self.threads = engine, threads
        self.image: Any = None
        self.boxes: Any = None
        self.segs: Any = None

    def read(self, path: str) -> dict[str, Any]:
        """Read a case into memory; from here on the peak of memory counts anew."""
        self.image = self.boxes = self.segs = None
        since_case = reset_peak()
        start = time.perf_counter()
        self.image, self.boxes = self.engine.read(Path(path))
        return {"seconds": time.perf_counter() - start, "peak_since_case": since_case}

    def segment(self) -> dict[str, Any]:
        """Segment the case in memory: arrays in, masks out."""
        self.segs = None
        start = time.perf_counter()
        self.segs = self.engine.segment(self.image, self.boxes)
        return {"seconds": time.perf_counter() - start}

    def write(self, path: str) -> dict[str, Any]:
        """Write the last masks."""
        start = time.perf_counter()
        self.engine.write(Path(path), self.segs)
        return {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()}

    def profile(self) -> dict[str, Any]:
        """Time the image encoder alone; see `profile.py`."""
        if self.engine.bundle is None:
            raise ValueError("this engine's encoder does not run in OpenVINO")
        from graysam.benchmarking.profile import profile_encoder

        bundle = self.engine.bundle
        found = profile_encoder(bundle.graphs["encoder"], self.threads, bundle.precision)
        return {**found, "peak": "int8" if bundle.kind == "int8" else found["computed_in"]}


def _forward(source: TextIO, lines: "SimpleQueue[str]") -> NoReturn:
    for line in source:
        lines.put(line)
    os._exit(0)  # not sys.exit: that ends this thread alone


def _answers(requests: Requests, lines: "SimpleQueue[str]") -> Iterator[dict[str, Any]]:
    while True:
        line = lines.get()
        request = json.loads(line)
        try:
            yield getattr(requests, request.pop("do"))(**request)
        except MemoryError:
            yield {"error": "does not fit into memory"}
        except Exception as error:  # whatever a case does to an engine is an answer, and the next case may go well
            yield {"error": f"{type(error).__name__}: {one_line(error)}"}


def main(argv: Sequence[str]) -> int:
    """Serve until the input ends; exit code 2 where the engine cannot be loaded."""
    # Whatever a library prints, from Python or C, is no answer.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    kind, threads, bundle = argv[0], int(argv[1]), Path(argv[2]) if len(argv) > 2 else None
    try:
        import cv2

        cv2.setNumThreads(threads)
        start = time.perf_counter()
        requests = Requests(open_engine(kind, threads=threads, bundle=bundle), threads)
        print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)
    except ImportError as error:
        print(f"{error.name} is missing: pip install '.[train,benchmark]'", file=sys.stderr)
        return BAD_INPUT
    except (ValueError, OSError, RuntimeError) as error:
        print(one_line(error), file=sys.stderr)
        return BAD_INPUT
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_forward, args=(sys.stdin, lines), daemon=True).start()
    for answer in _answers(requests, lines):
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
