"""The timing harness: fresh worker processes with fixed threads, runs interleaved round-robin, median and spread.

A `Worker` runs `python -m graysam.benchmarking.worker`, which opens one thing to time and answers requests.
`time_round_robin` interleaves the competitors' runs, so that whatever else the machine does affects all alike.
"""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from graysam.system.terminal import exit_reason

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_EXIT_TIMEOUT_S = 5.0  # for a worker whose input has ended

Run = Callable[[], Mapping[str, float]]


def environment(threads: int, **more: str) -> dict[str, str]:
    """Return this process's environment with the number of threads fixed, and more variables set."""
    return os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | more


class WorkerError(ChildProcessError):
    """A process failed; the message is one line, and `exited` says whether the process has ended."""

    def __init__(self, message: str, *, exited: bool) -> None:
        super().__init__(message)
        self.exited = exited


class Worker:
    """A process that opens one thing to time and answers requests; use it in a `with` block, which ends it.

    Args:
        target: `module:callable` that opens the thing to time. It is called with `threads` and the options, and
            the public methods of what it returns are the requests: JSON values in, a dict of JSON values out.
        threads: CPU threads of the process, fixed before it starts.
        show_stderr: whether its standard error is the caller's; otherwise it is kept for error messages.
        options: further JSON values for the callable.

    Raises:
        WorkerError: the target could not be opened.
    """

    def __init__(self, target: str, *, threads: int, show_stderr: bool = False, **options: Any) -> None:
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # close() does
        spec = json.dumps({"target": target, "threads": threads, **options})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graysam.benchmarking.worker", spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if show_stderr else self._stderr,
            text=True,
            env=environment(threads),
        )
        try:
            self.open_s = float(self._answer()["seconds"])
        except BaseException:
            self.close()
            raise

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            WorkerError: the request failed, or the process has ended.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # a broken pipe: _answer reports why
            self.process.stdin.write(json.dumps({"request": request, **arguments}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.endswith("\n"):  # the end of the output, perhaps in the middle of an answer
            code = self.process.wait()
            self._stderr.seek(0)
            raise WorkerError(exit_reason(self._stderr.read(), code), exited=True)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"], exited=False)
        return answer

    def close(self) -> None:
        """End the process, which its input's end asks for; kill it if it does not end."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # unsent requests have no reader any more
                    pipe.close()
        try:
            self.process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()  # nobody waits for its answer any more
        self.close()


@dataclass
class Timed:
    """Measurements of a competitor's timed runs, or the error that stopped it."""

    runs: list[Mapping[str, float]] = field(default_factory=list)
    error: str = ""


def time_round_robin(
    competitors: Mapping[str, Run],
    *,
    repeats: int,
    warmup: int = 0,
    limit_s: float = math.inf,
    pause_s: float = 0.0,
) -> dict[str, Timed]:
    """Run the competitors round-robin; the order rotates, so that nobody always follows the same one.

    Args:
        competitors: name to a function that runs once and returns its measurements, one of them `seconds`. One that
            raises WorkerError takes no further part, and the others continue.
        repeats: timed runs of each, at most.
        warmup: runs of each before those.
        limit_s: time for the timed runs of one competitor, estimated from its first; at least one run is timed.
        pause_s: pause before each run, in which the threads of the previous competitor go to sleep.

    Returns:
        The timed runs, or the error, by name.
    """
    timed = {name: Timed() for name in competitors}
    order = list(competitors)
    for turn in range(warmup + repeats):
        for name in tuple(order):
            time.sleep(pause_s)
            runs = timed[name].runs
            try:
                measured = competitors[name]()
            except WorkerError as error:
                timed[name] = Timed(error=str(error))
                order.remove(name)
                continue
            if turn < warmup:
                continue
            runs.append(measured)
            if (len(runs) + 1) * runs[0]["seconds"] > limit_s:
                order.remove(name)
        order = order[1:] + order[:1]
    return timed


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return `median`, `min`, `max` and the number `n` of values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}
