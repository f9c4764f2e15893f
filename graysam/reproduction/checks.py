"""Reproducibility checks: what the paper, its released code and the metric leave unexplained, recomputed as tables."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from graysam.system.extras import missing, require
from graysam.system.files import write_json_file

FORMAT = 1  # of the file
OPTION = "--reproducibility-checks"
# Name -> function that computes it; imported by name, since networks and splits need the extra `train`.
CHECKS = {
    "nsd": "surfaces.compare_surfaces",
    "blur": "diffusion.measure_diffusion",
    "split": "splits.count_leaks",
    "quantization": "networks.count_quantized_layers",
    "macs": "networks.count_operations",
    "models": "networks.list_models",
}
NEED_TRAIN = ("split", "quantization", "macs", "models")
Cell = str | int | float | None  # None: there is no such number


@dataclass(frozen=True)
class Check:
    """A computed check.

    Attributes:
        title: of its section in the report.
        summary: the result in plain words.
        columns: names of the table's columns.
        rows: of the table.
        skipped: why nothing was computed; "" where it was.
        name: its key in `CHECKS`.
        command: that computes it again.
    """

    title: str
    summary: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    skipped: str = ""
    name: str = ""
    command: str = ""


def run_checks(names: Sequence[str] = (), train_npz: Path | None = None) -> list[Check]:
    """Compute checks in the order of `CHECKS`.

    Args:
        names: keys of `CHECKS`; empty for all. Checks that need the extra `train` are skipped where it is missing,
            unless they are named.
        train_npz: folder of training NPZ for the check `split`; None for a synthetic set.

    Raises:
        ValueError: an unknown name, or a folder that cannot be used.
        SystemExit: a named check needs the extra `train`, which is missing.
    """
    if unknown := sorted(set(names) - CHECKS.keys()):
        raise ValueError(f"unknown checks {', '.join(unknown)}; choose from {', '.join(CHECKS)}")
    if set(names) & set(NEED_TRAIN):
        require("train")
    checks = []
    for name in [name for name in CHECKS if not names or name in names]:
        options = [name, "--train-npz", str(train_npz)] if name == "split" and train_npz else [name]
        if name in NEED_TRAIN and (absent := missing("train")):
            check = Check(name, skipped=f"it needs {', '.join(absent)}: pip install '.[train]'")
        else:
            module, function = CHECKS[name].split(".")
            compute = getattr(import_module(f"graysam.reproduction.{module}"), function)
            check = compute(train_npz) if name == "split" else compute()
        checks.append(replace(check, name=name, command=shlex.join(["graysam", "report", OPTION, *options])))
    return checks


def to_document(checks: Sequence[Check]) -> dict[str, Any]:
    """Return checks as plain containers for JSON."""
    return {"format": FORMAT, "checks": [asdict(check) for check in checks]}


def write_checks(path: Path, checks: Sequence[Check]) -> None:
    """Write checks as JSON, for `graysam report`, and make the folder; raise OSError where that is impossible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_file(path, to_document(checks))
