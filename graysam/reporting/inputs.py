"""Find the inputs of a report in files and folders: run directories, metrics files, probes, benchmarks, checks."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graysam.reporting.accuracy import COLUMNS, CaseScores, read_case_scores
from graysam.reporting.probes import Probe, read_probe
from graysam.reporting.reproducibility import CheckResult, read_checks
from graysam.reporting.runs import Run, natural_key, read_run
from graysam.reporting.schemas import CONFIG, SUMMARY, BenchmarkReport, parsing, read_benchmark

REQUIRED = "run directories, metrics files, probes, benchmarks, reproducibility checks"
Kind = tuple[str, Callable[[Path], Any]]  # attribute of Inputs, and how a file of this kind is read
# Keys of a JSON file -> its kind.
JSON_KINDS: Sequence[tuple[set[str], Kind]] = (
    ({"name", "changes", "objects"}, ("probes", read_probe)),
    ({"format", "checks"}, ("checks", read_checks)),
    ({"machine", "cases", "results"}, ("benchmarks", read_benchmark)),
)


@dataclass
class Inputs:
    """Everything that was found, each list in natural order."""

    runs: list[Run] = field(default_factory=list)
    metrics: list[CaseScores] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    benchmarks: list[BenchmarkReport] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)


def collect(paths: Iterable[Path]) -> Inputs:
    """Read what files and folders hold; a run directory counts as one input and is not searched itself.

    Args:
        paths: files, which must be inputs, and folders, in which other files are ignored.

    Raises:
        ValueError: a path that does not exist, a folder without inputs, a file that is something else or damaged, two
            metrics files, probes or checks of one name.
    """
    found: dict[Path, tuple[Path, Kind]] = {}  # by resolved path
    for path in paths:
        with parsing(f"{path} (required: {REQUIRED})"):
            inputs = [(item.resolve(), (item, kind)) for item, kind in _search(path) if kind is not None]
            if not inputs:
                raise ValueError("it holds no input" if path.is_dir() else "it is none of these")
        found = dict(inputs) | found
    collected = Inputs()
    for path, (name, read) in sorted(found.values(), key=lambda one: natural_key(one[0].as_posix())):
        content = read(path)
        getattr(collected, name).extend(content if name == "checks" else [content])
    for what in ("metrics", "probes", "checks"):
        names = [one.name for one in getattr(collected, what)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two {what} are named {', '.join(twice)}; required: different names")
    collected.metrics.sort(key=lambda scores: natural_key(scores.name))
    collected.probes.sort(key=lambda probe: natural_key(probe.name))
    return collected


def _search(path: Path) -> Iterator[tuple[Path, Kind | None]]:
    """Yield a file, or the run directories below a folder and the CSV and JSON files outside of them, with kinds."""
    if not path.is_dir():
        yield path, _classify(path)
    for place, inside, names in os.walk(path):
        if CONFIG in names or SUMMARY in names:
            inside.clear()
            yield Path(place), ("runs", read_run)
            continue
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            if name.endswith((".csv", ".json")):
                yield Path(place, name), _classify(Path(place, name))


def _classify(file: Path) -> Kind | None:
    """Return the kind of an input by the file's content; None for something else."""
    try:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8") as stream:
                return ("metrics", read_case_scores) if next(csv.reader(stream), []) == list(COLUMNS) else None
        keys = json.loads(file.read_text(encoding="utf-8")).keys()
    except (ValueError, AttributeError, csv.Error):
        return None
    return next((kind for wanted, kind in JSON_KINDS if keys >= wanted), None)
