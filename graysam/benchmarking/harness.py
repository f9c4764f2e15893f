"""The timing harness: worker processes with fixed threads, runs interleaved round-robin, median and spread.

A `Worker` is a process of `python -m graysam.benchmarking.harness`, which opens one thing to time and answers requests.
`time_round_robin` interleaves the competitors' runs, so that whatever else the machine does affects all alike.
"""

import contextlib
import json
import math
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from graysam.system.terminal import exit_reason, one_line

Run = Callable[[], Mapping[str, float]]


def environment(threads: int, **more: str) -> dict[str, str]:
    """Return this process's environment with the number of threads fixed, and more variables set."""
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return os.environ | dict.fromkeys(variables, str(threads)) | more


class Worker:
    """A process that opens one thing to time and answers requests; use it in a `with` block, which ends it.

    Args:
        target: `module:callable`, called with `threads` and the options. The public methods of what it returns are the
            requests: JSON values in; a dict of JSON values, or None, out.
        threads: CPU threads of the process, fixed before it starts.
        options: further JSON values for the callable.

    Raises:
        ChildProcessError: in one line, why the target could not be opened.
    """

    def __init__(self, target: str, *, threads: int, **options: Any) -> None:
        command = [sys.executable, "-m", "graysam.benchmarking.harness", target]
        pipe, variables = subprocess.PIPE, environment(threads, PYTHONWARNINGS="ignore")
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True, env=variables)
        try:
            self.open_s: float = self.ask("open", threads=threads, **options)["seconds"]
        except BaseException:
            self.__exit__()
            raise

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Return a request's answer with its `seconds`; raise ChildProcessError if it or the process failed."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):  # the exit code says why
            self.process.stdin.write(json.dumps({"request": request, **arguments}) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line.endswith("\n"):  # the end of the output, perhaps in the middle of an answer
            code = self.process.wait()
            raise ChildProcessError(exit_reason(self.error_output(), code))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildProcessError(answer["error"])
        return answer

    def error_output(self) -> str:
        """Return what the process has written to its standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError), self.process:
            self.process.kill()
        if not self.errors.closed:
            sys.stderr.write(self.error_output())
            self.errors.close()


def _serve(target: str) -> None:
    """Open the target and answer requests, a JSON object per line of the standard input and output, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print, from Python or C, is not an answer
    opened: Any = None
    for line in sys.stdin:
        arguments = json.loads(line)
        request = arguments.pop("request")
        start = time.perf_counter()
        try:
            if request == "open":
                opened, answer = pkgutil.resolve_name(target)(**arguments), None
            else:
                answer = getattr(opened, request)(**arguments)
        except Exception as error:  # the error of one request is an answer; the next request may succeed
            prefix = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            answer = {"error": prefix + one_line(error)}
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, **(answer or {})}), file=answers, flush=True)


def time_round_robin(
    competitors: Mapping[str, Run], *, repeats: int, warmup: int, limit_s: float = math.inf, pause_s: float = 0.0
) -> tuple[dict[str, list[Mapping[str, float]]], dict[str, str]]:
    """Run the competitors round-robin; the order rotates, so that nobody always follows the same one.

    Args:
        competitors: name to a function that runs once and returns its measurements, one of them `seconds`. One that
            raises ChildProcessError takes no further part, and the others continue.
        repeats: timed runs of each, at most.
        warmup: runs of each before those.
        limit_s: time for the timed runs of one competitor, estimated from its first; at least one run is timed.
        pause_s: pause before each run, in which the threads of the previous competitor go to sleep.

    Returns:
        What each competitor measured in its timed runs, and the errors that stopped some, by name.
    """
    runs: dict[str, list[Mapping[str, float]]] = {name: [] for name in competitors}
    errors: dict[str, str] = {}
    order = list(competitors)
    for turn in range(warmup + repeats):
        for name in tuple(order):
            time.sleep(pause_s)
            try:
                measured = competitors[name]()
            except ChildProcessError as error:
                runs[name], errors[name] = [], str(error)
                order.remove(name)
                continue
            if turn >= warmup:
                runs[name].append(measured)
                if (len(runs[name]) + 1) * runs[name][0]["seconds"] > limit_s:
                    order.remove(name)
        order = order[1:] + order[:1]
    return runs, errors


if __name__ == "__main__":
    _serve(sys.argv[1])
