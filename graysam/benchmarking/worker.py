"""The process of a `harness.Worker`: `python -m graysam.benchmarking.worker SPEC`.

Opens the target of the spec, reports how long that took, and answers requests: one JSON object per line on the standard
input and output. Ends when the input ends, even during a request: the process that asked is gone then.
"""

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any, TextIO

import cv2

from graysam.system.terminal import BAD_INPUT, one_line


def _forward(source: TextIO, lines: "SimpleQueue[str]") -> None:
    for line in source:
        lines.put(line)
    os._exit(0)  # sys.exit would end this thread only


def _answers(opened: Any, lines: "SimpleQueue[str]") -> Iterator[dict[str, Any]]:
    while True:
        request = json.loads(lines.get())
        try:
            yield getattr(opened, request.pop("request"))(**request)
        except MemoryError:
            yield {"error": "does not fit into memory"}
        except Exception as error:  # the error of one request is an answer; the next request may succeed
            yield {"error": f"{type(error).__name__}: {one_line(error)}"}


def main(argv: Sequence[str]) -> int:
    """Serve until the input ends; return exit code 2 where the target cannot be opened."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints, from Python or C, is no answer
    start = time.perf_counter()
    try:
        spec = json.loads(argv[0])
        cv2.setNumThreads(spec["threads"])
        module, _, name = spec.pop("target").partition(":")
        opened = getattr(importlib.import_module(module), name)(**spec)
    except ImportError as error:
        print(f"{error.name} is missing: pip install '.[train,benchmark]'", file=sys.stderr)
        return BAD_INPUT
    except (ValueError, OSError, RuntimeError) as error:
        print(one_line(error), file=sys.stderr)
        return BAD_INPUT
    print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_forward, args=(sys.stdin, lines), daemon=True).start()
    for answer in _answers(opened, lines):
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
