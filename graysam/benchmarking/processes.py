"""The benchmark's side of its processes: workers that answer requests, and commands timed from start to end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from graysam.system.terminal import exit_reason

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ENDING_SECONDS = 5.0  # a worker gets to end by itself


class ContenderError(Exception):
    """What went wrong in a contender's process, in one line; `gone` says whether the process ended over it."""

    def __init__(self, message: str, *, gone: bool) -> None:
        super().__init__(message)
        self.gone = gone


def environment(threads: int, **more: str) -> dict[str, str]:
    """Return this process's environment with the number of threads fixed, and more variables set."""
    return os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | more


class Worker:
    """A process that runs one engine; to be used in a `with` block, which ends it whatever happens.

    Args:
        engine: a key of `engines.ENGINES`; bundle: the folder it runs, if it runs one; threads: of the CPU.
        words: a file for what the process says on its standard error.

    Raises:
        ContenderError: the engine could not be loaded.
    """

    def __init__(self, engine: str, bundle: Path | None, *, threads: int, words: Path) -> None:
        self.words = words
        command = [sys.executable, "-m", "graysam.benchmarking.worker", engine, str(threads)]
        command += [] if bundle is None else [str(bundle)]
        with words.open("w") as sink:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env=environment(threads),
            )
        try:
            self.open_seconds = float(self._answer()["seconds"])
        except BaseException:
            self.close()
            raise

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            ContenderError: the request failed, or the process is gone.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # a broken pipe: why, is told below
            self.process.stdin.write(json.dumps({"do": request, **arguments}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):  # the end of its output, perhaps in the middle of an answer
            self.close()
            raise ContenderError(
                exit_reason(self.words.read_text(errors="replace"), self.process.returncode), gone=True
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"], gone=False)
        return answer

    def close(self) -> None:
        """End the process: it is asked to by the end of its input, and killed where it does not listen."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(OSError):  # what was still to be sent has no reader
                    pipe.close()
        try:
            self.process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()  # nobody waits for its answer any more
        self.close()


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
        ContenderError: it ended with another exit code than 0.
    """
    with words.open("w") as sink:
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=sink, text=True, env=dict(variables))
        seconds = time.perf_counter() - start
    if done.returncode:
        raise ContenderError(exit_reason(words.read_text(errors="replace"), done.returncode), gone=True)
    return seconds, done.stdout


def run_to_end(command: Sequence[str]) -> None:
    """Run a command; what it says goes to the standard error as it comes, and its last line tells what went wrong.

    Raises:
        ContenderError: it ended with another exit code than 0.
    """
    last = ""
    # Unbuffered, or what it printed before its last words would come after them.
    own = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=own) as process:
        for line in process.stdout or ():
            print(line, end="", file=sys.stderr, flush=True)
            last = line if line.strip() else last
    if process.returncode:
        raise ContenderError(exit_reason(last, process.returncode), gone=True)
