"""Results of the reproducibility checks (`graysam report --reproducibility-checks`): a sentence and a table each."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graysam.reporting.schemas import parsing
from graysam.reporting.tables import EMPTY, Table

FORMAT = 1  # of the file
COMMAND = "graysam report --reproducibility-checks"
_FORMER_COMMAND = re.compile(r"python -m graysam\.(reproduction\.)?findings")


@dataclass(frozen=True)
class CheckResult:
    """Result of one check: a title, a sentence, the command that computes it again, and a table.

    Attributes:
        skipped: why it was not computed; "" where it was.
    """

    name: str
    title: str
    command: str
    summary: str
    table: Table
    skipped: str

    def __str__(self) -> str:
        source = f"Computed by `{self.command}`."
        return f"Not computed: {self.skipped}. {source}" if self.skipped else f"{self.summary} {source}\n\n{self.table}"


def is_checks(document: object) -> bool:
    """Return whether the content of a JSON file is that of reproducibility checks."""
    return isinstance(document, dict) and document.keys() in ({"format", "checks"}, {"format", "findings"})


def read_checks(path: Path) -> list[CheckResult]:
    """Read the file of reproducibility checks; raise ValueError for another format or damage."""
    with parsing(str(path)):
        return parse_checks(json.loads(path.read_text(encoding="utf-8")))


def parse_checks(document: Any) -> list[CheckResult]:
    """Return the results in a document's order; raise ValueError for another format or damage."""
    if not is_checks(document) or document["format"] != FORMAT:
        raise ValueError(f"it does not hold reproducibility checks of format {FORMAT}; run {COMMAND} again")
    results = []
    with parsing("a reproducibility check is damaged"):
        for one in document.get("checks", document.get("findings")):  # `findings` in earlier files
            name, title, command, summary, skipped = (
                str(one[key]) for key in ("name", "title", "command", "summary", "skipped")
            )
            rows = [[_format_value(value) for value in row] for row in one["rows"]]
            if any(len(row) != len(one["columns"]) for row in rows):
                raise ValueError(f"{name}: a row has another number of columns than the header")
            table = Table("", [str(column) for column in one["columns"]], rows)
            results.append(CheckResult(name, title, _FORMER_COMMAND.sub(COMMAND, command), summary, table, skipped))
    return results


def markdown(results: Sequence[CheckResult]) -> str:
    """Return results as Markdown, a heading each."""
    return "\n\n".join(f"### {one.title}\n\n{one}" for one in results)


def _format_value(value: Any) -> str:
    if value is None:
        return EMPTY
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
