"""The benchmark's side of its processes: workers that answer requests, and commands timed from start to end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from graysam.benchmarking.harness import WorkerError
from graysam.system.terminal import exit_reason

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ENDING_SECONDS = 5.0  # a worker gets to end by itself


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt in the block, so that what must be cleaned up is. For the main thread."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_timed(command: Sequence[str], variables: Mapping[str, str], words: Path) -> tuple[float, str]:
    """Run a command; return its wall time in seconds, from before its start to after its end, and what it printed.

    Raises:
        WorkerError: it ended with another exit code than 0.
    """
    with words.open("w") as sink:
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=sink, text=True, env=dict(variables))
        seconds = time.perf_counter() - start
    if done.returncode:
        raise WorkerError(exit_reason(words.read_text(errors="replace"), done.returncode), exited=True)
    return seconds, done.stdout


def run_to_end(command: Sequence[str]) -> None:
    """Run a command; what it says goes to the standard error as it comes, and its last line tells what went wrong.

    Raises:
        WorkerError: it ended with another exit code than 0.
    """
    last = ""
    # Unbuffered, or what it printed before its last words would come after them.
    own = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=own) as process:
        for line in process.stdout or ():
            print(line, end="", file=sys.stderr, flush=True)
            last = line if line.strip() else last
    if process.returncode:
        raise WorkerError(exit_reason(last, process.returncode), exited=True)
