"""Cold starts: a process per case, from its start to the masks on disk."""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.competitors import Competitor
from graysam.benchmarking.harness import WorkerError, environment, time_round_robin
from graysam.reporting.schemas import ColdStart
from graysam.system.terminal import exit_reason

Command = tuple[str, str, Sequence[str]]  # name, title, arguments; `-i` and `-o` follow


def cold_commands(competitors: Iterable[Competitor], exported: Mapping[str, Path], threads: int) -> list[Command]:
    """Return LiteMedSAM's script and, for each of graysam's own rows, `predict` with and without its cache."""
    commands: list[Command] = []
    for one in competitors:
        python = [sys.executable, "-m"]
        if one.engine == "script":
            script = [*python, "graysam.benchmarking.litemedsam_script", "--threads", str(threads)]
            commands.append((one.name, one.title, script))
        elif one.engine == "predictor":
            predict = [*python, "graysam.predict", "--threads", str(threads), "--timing"]
            predict += ["--model", str(exported[one.name])]
            commands.append((one.name, f"{one.title}, with cache", predict))
            commands.append((f"{one.name}_uncached", f"{one.title}, without cache", [*predict, "--no-cache"]))
    return commands


def time_cold_starts(
    case: BenchmarkCase, commands: Sequence[Command], *, repeats: int, threads: int
) -> list[ColdStart]:
    """Time the commands on a case, round-robin after one run each, which fills the file system's and graysam's caches.

    The user's cache is replaced by a temporary one.
    """
    starts = {name: ColdStart(case=case.name, name=name, title=title) for name, title, _ in commands}
    with tempfile.TemporaryDirectory(prefix="graysam_cold_") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        case.write(folder / "in" / f"{case.name}.npz")
        variables = environment(threads, GRAYSAM_CACHE=str(folder / "cache"))
        competitors = {name: partial(_run, command, folder, variables, starts[name]) for name, _, command in commands}
        for name, timed in time_round_robin(competitors, warmup=1, repeats=repeats).items():
            starts[name].seconds, starts[name].error = [run["seconds"] for run in timed.runs], timed.error
    return list(starts.values())


def _run(command: Sequence[str], folder: Path, variables: Mapping[str, str], start: ColdStart) -> dict[str, float]:
    target = folder / "out" / f"{start.case}.npz"
    target.unlink(missing_ok=True)
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, "-i", str(folder / "in"), "-o", str(folder / "out")], capture_output=True, text=True, env=variables
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise WorkerError(exit_reason(done.stderr, done.returncode), exited=True)
    if not target.is_file():
        raise WorkerError("the command succeeded without writing masks", exited=True)
    # `predict --timing` prints `timing: imports 0.210, model 0.105, ...; in all 0.5 s`.
    phases = re.search(r"^timing: ([^;\n]*)", done.stdout, re.MULTILINE)
    start.parts = {name: float(value) for name, value in re.findall(r"(\w+) (\d+\.\d+)", phases[1] if phases else "")}
    return {"seconds": seconds}
