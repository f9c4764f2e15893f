"""Reading what runs logged as CSV, where a resumed run has several files."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def logged_in(version: Path) -> dict[str, dict[int, float]]:
    """Return all values that one process logged, by column and step."""
    table = pd.read_csv(version / "metrics.csv", index_col="step", float_precision="round_trip")
    return {name: values.dropna().to_dict() for name, values in table.items()}


def logged(run_dir: Path, columns: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return the values of columns by step; where a step was repeated, the later process's."""
    found: dict[str, dict[int, float]] = {name: {} for name in columns}
    for file in sorted((run_dir / "metrics").glob("version_*/metrics.csv"), key=lambda file: int(file.parent.name[8:])):
        for name, values in logged_in(file.parent).items():
            if name in found:
                found[name] |= values
    return found
