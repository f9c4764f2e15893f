"""Results of the reproducibility checks (`graysam report --reproducibility-checks`): a sentence and a table each."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from graysam.reporting.schemas import parsing
from graysam.reporting.tables import EMPTY, Table


class CheckResult(NamedTuple):
    """Name and title of a check, and its text: what was found, the command that computes it again, and a table."""

    name: str
    title: str
    text: str


def read_checks(path: Path) -> list[CheckResult]:
    """Read the file of reproducibility checks; raise ValueError for another format or damage."""
    with parsing(str(path)):
        return parse_checks(json.loads(path.read_text(encoding="utf-8")))


def parse_checks(document: Any) -> list[CheckResult]:
    """Return the results in a document's order; raise ValueError for another format or damage."""
    if document.get("format") != 1:
        raise ValueError("it does not hold checks of format 1; run graysam report --reproducibility-checks again")
    results = []
    with parsing("a reproducibility check is damaged"):
        for one in document["checks"]:
            source = f"Computed by `{one['command']}`."
            table = Table("", one["columns"], [[_format_value(value) for value in row] for row in one["rows"]])
            text = f"{one['summary']} {source}\n\n{table}"
            if one["skipped"]:
                text = f"Not computed: {one['skipped']}. {source}"
            results.append(CheckResult(str(one["name"]), str(one["title"]), text))
    return results


def _format_value(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return EMPTY if value is None else str(value)
