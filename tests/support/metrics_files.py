"""Reading what runs logged as CSV, where a run that went on has several files."""

import csv
from collections.abc import Sequence
from pathlib import Path


def logged_in(version: Path) -> dict[str, dict[int, float]]:
    """Return all values that one process logged, by column and step."""
    found: dict[str, dict[int, float]] = {}
    with open(version / "metrics.csv", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step":
                    found.setdefault(name, {})[int(row["step"])] = float(value)
    return found


def logged(run_dir: Path, columns: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return the values of columns by step; where a step was repeated, the later process's."""
    found: dict[str, dict[int, float]] = {name: {} for name in columns}
    versions = sorted((run_dir / "metrics").glob("version_*"), key=lambda path: int(path.name.split("_")[1]))
    for version in versions:
        if (version / "metrics.csv").is_file():
            values = logged_in(version)
            for name in columns:
                found[name].update(values.get(name, {}))
    return found
