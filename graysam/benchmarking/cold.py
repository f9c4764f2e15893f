"""Cold starts: a process per case, from its start to the masks on disk."""

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.contenders import Contender
from graysam.benchmarking.harness import WorkerError, environment
from graysam.benchmarking.processes import run_timed


@dataclass(frozen=True)
class Start:
    """A command that segments the folder `-i` into the folder `-o`, and variables of its environment."""

    name: str
    title: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)


def starts(contenders: Sequence[Contender], bundles: Mapping[str, Path], threads: int, cache: Path) -> list[Start]:
    """Return the peer's script and, for each of graysam's own rows, `predict` with and without its cache.

    cache: the folder that stands for the user's cache, so that a run neither sees nor leaves anything there.
    """
    found = []
    for contender in contenders:
        if contender.engine == "script":
            peer = [sys.executable, "-m", "graysam.benchmarking.litemedsam_script", "--threads", str(threads)]
            found.append(Start(contender.name, contender.title, peer))
        elif contender.engine == "predictor":
            predict = [sys.executable, "-m", "graysam.predict", "--runtime", "openvino", "--threads", str(threads)]
            predict += ["--timing", "--model", str(bundles[contender.name])]
            variables = {"GRAYSAM_CACHE": str(cache)}
            cached = Start(contender.name, f"{contender.title}, with cache", predict, variables)
            title = f"{contender.title}, without cache"
            found += [cached, Start(f"{contender.name}_uncached", title, [*predict, "--no-cache"], variables)]
    return found


def time_starts(case: BenchmarkCase, commands: Sequence[Start], repeats: int, threads: int) -> list[dict[str, Any]]:
    """Time the commands on a case, in turns, each once before it counts; return one entry a command.

    An entry has `case`, `name`, `title`, `seconds` (of every run), `parts` (what the command said of its own last
    run) and `error`, which is empty where all went well.
    """
    entries: list[dict[str, Any]] = [
        {"case": case.name, "name": start.name, "title": start.title, "seconds": [], "parts": {}, "error": ""}
        for start in commands
    ]
    with tempfile.TemporaryDirectory(prefix="graysam_cold_") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        case.write(folder / "in" / f"{case.name}.npz")
        for turn in range(1 + repeats):
            for start, entry in zip(commands, entries, strict=True):
                if entry["error"]:
                    continue
                try:
                    seconds, said = _run(start, folder, f"{case.name}.npz", threads)
                except WorkerError as error:
                    entry["error"], entry["seconds"] = str(error), []
                    continue
                if turn:  # the first one fills the file system's cache and graysam's own
                    entry["seconds"].append(seconds)
                    entry["parts"] = dict(_parts(said))
    return entries


def _run(start: Start, folder: Path, name: str, threads: int) -> tuple[float, str]:
    target = folder / "out" / name
    target.unlink(missing_ok=True)
    command = [*start.command, "-i", str(folder / "in"), "-o", str(folder / "out")]
    seconds, said = run_timed(command, environment(threads, **start.variables), folder / "words.txt")
    if not target.is_file():
        raise WorkerError("the command ended well, but there are no masks", exited=True)
    return seconds, said


def _parts(said: str) -> Iterator[tuple[str, float]]:
    """Yield the seconds of every part from `predict --timing`: `timing: imports 0.210, model 0.105, ...`."""
    for line in said.splitlines():
        if line.startswith("timing: "):
            yield from ((name, float(value)) for name, value in re.findall(r"(\w+) (\d+\.\d+)", line.partition(";")[0]))
