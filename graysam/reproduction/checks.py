"""Reproducibility checks: what the paper, its released code and the metric leave unexplained, recomputed as tables."""

import pkgutil
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graysam.system.extras import missing

# Name -> function that computes it; imported by name, since networks and splits need the extra `train`.
CHECKS = {
    "nsd": "pictures:compare_surfaces",
    "blur": "pictures:measure_diffusion",
    "split": "splits:count_leaks",
    "quantization": "networks:count_quantized_layers",
    "macs": "networks:count_operations",
    "models": "networks:list_models",
}
NEED_TRAIN = ("split", "quantization", "macs", "models")
Cell = str | int | float | None  # None: there is no such number


@dataclass(frozen=True)
class Check:
    """A computed check.

    Attributes:
        title: of its section in the report.
        summary: the result in plain words.
        columns, rows: the table.
        skipped: why nothing was computed; "" where it was.
    """

    title: str
    summary: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    skipped: str = ""


def run_checks(names: Sequence[str] = (), train_npz: Path | None = None) -> dict[str, Any]:
    """Compute checks in the order of `CHECKS`, those that need the extra `train` only where it is installed.

    Args:
        names: keys of `CHECKS`; empty for all. Raises ValueError for another name.
        train_npz: folder of training NPZ for the check `split`; None for a synthetic set.

    Returns:
        Plain containers for JSON, which `graysam report` reads: of each check its fields, its name, and its command.
    """
    if unknown := sorted(set(names) - CHECKS.keys()):
        raise ValueError(f"unknown checks {', '.join(unknown)}; choose from {', '.join(CHECKS)}")
    checks = []
    for name in [name for name in CHECKS if not names or name in names]:
        options = [name, "--train-npz", str(train_npz)] if name == "split" and train_npz else [name]
        if name in NEED_TRAIN and (absent := missing("train")):
            check = Check(name, skipped=f"it needs {', '.join(absent)}: pip install '.[train]'")
        else:
            compute = pkgutil.resolve_name(f"graysam.reproduction.{CHECKS[name]}")
            check = compute(train_npz) if name == "split" else compute()
        command = shlex.join(["graysam", "report", "--reproducibility-checks", *options])
        checks.append({"name": name, "command": command, **asdict(check)})
    return {"format": 1, "checks": checks}
