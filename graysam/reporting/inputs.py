"""Find the inputs of a report in files and folders: run directories, metrics files, probes, benchmarks, checks."""

import csv
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graysam.reporting.accuracy import COLUMNS, CaseScores, read_case_scores
from graysam.reporting.probes import Probe, is_probe, read_probe
from graysam.reporting.reproducibility import CheckResult, is_checks, read_checks
from graysam.reporting.runs import CONFIG, SUMMARY, Run, natural_key, read_run
from graysam.reporting.schemas import parsing, read_json_object

REQUIRED = "run directories, metrics files, probes, benchmarks, reproducibility checks"
Read = Callable[[Path], Any]


@dataclass
class Inputs:
    """Everything that was found, each list in natural order; benchmarks are documents as written."""

    runs: list[Run] = field(default_factory=list)
    metrics: list[CaseScores] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)


def collect(paths: Iterable[Path]) -> Inputs:
    """Read what files and folders hold; a run directory counts as one input and is not searched itself.

    Args:
        paths: files, which must be inputs, and folders, in which other files are ignored.

    Raises:
        ValueError: a path that does not exist, a folder without inputs, a file that is something else or damaged, two
            metrics files, probes or checks of one name.
    """
    found: dict[Path, tuple[Path, str, Read]] = {}  # by resolved path
    for path in paths:
        with parsing(f"{path} (required: {REQUIRED})"):
            inputs = _search(path) if path.is_dir() else {path: _classify(path)}
            if not any(inputs.values()):
                raise ValueError("it holds no input" if path.is_dir() else "it is none of these")
            for item, kind in inputs.items():
                if kind is not None:
                    found.setdefault(item.resolve(), (item, *kind))
    collected = Inputs()
    for path, name, read in sorted(found.values(), key=lambda one: natural_key(one[0].as_posix())):
        content = read(path)
        getattr(collected, name).extend(content if name == "checks" else [content])
    collected.metrics.sort(key=lambda scores: natural_key(scores.name))
    collected.probes.sort(key=lambda probe: natural_key(probe.title))
    for what, names in (
        ("metrics files are named", [scores.name for scores in collected.metrics]),
        ("probes are of", [probe.title for probe in collected.probes]),
        ("reproducibility checks are named", [check.name for check in collected.checks]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two {what} {', '.join(twice)}; required: different names")
    return collected


def _search(folder: Path) -> dict[Path, tuple[str, Read] | None]:
    """Return the run directories below a folder, and the CSV and JSON files outside of them."""
    found: dict[Path, tuple[str, Read] | None] = {}
    for place, inside, names in os.walk(folder):
        if CONFIG in names or SUMMARY in names:
            found[Path(place)] = ("runs", read_run)
            inside.clear()
            continue
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        files = (Path(place) / name for name in sorted(names) if name.endswith((".csv", ".json")))
        found |= {file: _classify(file) for file in files}
    return found


def _classify(file: Path) -> tuple[str, Read] | None:
    """Return the kind of an input and how to read it, by the file's content; None for something else."""
    try:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8") as stream:
                return ("metrics", read_case_scores) if next(csv.reader(stream), []) == list(COLUMNS) else None
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, csv.Error):
        return None
    if is_probe(document):
        return "probes", read_probe
    if is_checks(document):
        return "checks", read_checks
    is_benchmark = isinstance(document, dict) and document.keys() >= {"machine", "cases", "results"}
    return ("benchmarks", read_json_object) if is_benchmark else None
