"""What a report is made of: run directories, metrics files, probes, benchmarks, findings, found by what they hold."""

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graysam.reporting.accuracy import METRICS, CaseScores, read_case_scores
from graysam.reporting.findings import Found, is_findings, read_findings
from graysam.reporting.probes import Probe, is_probe, read_probe
from graysam.reporting.runs import CONFIG, SUMMARY, natural_key

REQUIRED = "run directories, metrics files, probes, benchmarks, findings"


@dataclass
class Inputs:
    """All that was found, each kind in natural order of its paths; benchmarks are documents as they were written."""

    runs: list[Path] = field(default_factory=list)
    metrics: list[CaseScores] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Found] = field(default_factory=list)


def collect(paths: Iterable[Path]) -> Inputs:
    """Find what files and folders hold; a run directory counts as one and is not searched itself.

    Other files in folders are left alone; a file that is named must be a metrics file (CSV), a probe, a benchmark or
    findings (JSON).

    Raises:
        ValueError: a path that is not there, a folder that holds nothing of all this, a file that is something else or
            damaged, two metrics files or probes of one name, two files of findings.
    """
    found = Inputs()
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist; required: {REQUIRED}")
        runs, files = _below(path) if path.is_dir() else ([], [path])
        kinds = [(file, kind) for file in files if (kind := _kind(file)) is not None]
        if not runs and not kinds:
            what = "holds no run" if path.is_dir() else "is no metrics file, probe, benchmark or findings"
            raise ValueError(f"{path} {what}; required: {REQUIRED}")
        found.runs += [run for run in runs if _new(run, seen)]
        for file, kind in kinds:
            if _new(file, seen):
                _add(found, file, kind)
    found.runs.sort(key=lambda run: natural_key(run.as_posix()))
    found.metrics.sort(key=lambda scores: natural_key(scores.name))
    found.probes.sort(key=lambda probe: natural_key(probe.title))
    for what, names in (
        ("metrics files are named", [scores.name for scores in found.metrics]),
        ("probes are of", [probe.title for probe in found.probes]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two {what} {', '.join(twice)}; their names must tell them apart")
    return found


def _new(path: Path, seen: set[Path]) -> bool:
    known = path.resolve() in seen
    seen.add(path.resolve())
    return not known


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    runs, files = [], []
    for place, inside, names in os.walk(folder):
        if CONFIG in names or SUMMARY in names:
            runs.append(Path(place))
            inside.clear()
            continue
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        files += [Path(place) / name for name in sorted(names) if name.endswith((".csv", ".json"))]
    return runs, files


def _kind(file: Path) -> str | None:
    """Say what a file is, by its content; None for none of ours."""
    if file.suffix == ".csv":
        try:
            with file.open(newline="", encoding="utf-8") as stream:
                return "metrics" if next(csv.reader(stream), []) == ["case", "modality", *METRICS] else None
        except (OSError, ValueError, csv.Error):
            return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if is_probe(document):
        return "probe"
    if is_findings(document):
        return "findings"
    return "benchmark" if isinstance(document, dict) and document.keys() >= {"machine", "cases", "results"} else None


def _add(found: Inputs, file: Path, kind: str) -> None:
    if kind == "metrics":
        found.metrics.append(read_case_scores(file))
    elif kind == "probe":
        found.probes.append(read_probe(file))
    elif kind == "findings":
        if found.findings:
            raise ValueError(f"{file} is a second file of findings; give one")
        found.findings += read_findings(file)
    else:
        found.benchmarks.append(json.loads(file.read_text(encoding="utf-8")))
