"""What a finding is, and findings as a file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graysam.reporting.findings import FORMAT
from graysam.system.files import write_json_file

Cell = str | int | float | None  # None: there is no such number


@dataclass(frozen=True)
class Finding:
    """One finding: its name, a title, what was found in plain words, and the numbers as a table.

    command: what shows it again. skipped: why there is nothing, in one line; summary, columns and rows are empty then.
    """

    name: str
    title: str
    command: str
    summary: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = field(default_factory=list)
    skipped: str = ""


def as_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings as plain containers that JSON can hold."""
    return {"format": FORMAT, "findings": [asdict(finding) for finding in findings]}


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Write findings as JSON under a temporary name, renamed; the folder is made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_file(path, as_document(findings))
