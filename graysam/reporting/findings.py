"""What `graysam.reproduction.findings` computed, for the report: a sentence, a table and a command each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graysam.reporting.tables import EMPTY, Table

MODELS = "models"  # the finding that is a table of its own
FORMAT = 1  # of findings.json


@dataclass(frozen=True)
class Found:
    """One finding as it was written; skipped says why there are no numbers, "" where there are."""

    name: str
    title: str
    command: str
    summary: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    skipped: str

    def parts(self) -> list[str]:
        """Return its paragraphs and its table as Markdown, without its title."""
        shown = f"Shown by `{self.command}`."
        if self.skipped:
            return [f"Not computed: {self.skipped}. {shown}"]
        return [f"{self.summary} {shown}", Table("", self.columns, self.rows).markdown()]


def is_findings(document: object) -> bool:
    """Say whether a JSON file's content is what `graysam.reproduction.findings` writes."""
    return isinstance(document, dict) and document.keys() in ({"format", "checks"}, {"format", "findings"})


def read_findings(path: Path) -> list[Found]:
    """Read a file that `graysam.reproduction.findings -o` wrote; ValueError for another file, format or damage."""
    try:
        return from_document(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def from_document(document: Any) -> list[Found]:
    """Return the findings of a document in its order; ValueError where it is none."""
    if not is_findings(document) or document["format"] != FORMAT:
        raise ValueError(f"it is not what graysam.reproduction.findings -o writes, format {FORMAT}; run it again")
    try:
        found = []
        for one in document.get("checks", document.get("findings")):
            texts = {key: one[key] for key in ("name", "title", "command", "summary", "skipped")}
            rows = [[_text(value) for value in row] for row in one["rows"]]
            strangers = [key for key, value in texts.items() if not isinstance(value, str)]
            if strangers or any(len(row) != len(one["columns"]) for row in rows):
                raise ValueError(f"finding {one['name']!r} is damaged; run graysam.reproduction.findings again")
            found.append(Found(**texts, columns=[str(column) for column in one["columns"]], rows=rows))
    except (KeyError, TypeError) as error:
        raise ValueError(f"its findings are damaged ({error!r}); run graysam.reproduction.findings again") from None
    return found


def markdown(findings: Sequence[Found]) -> str:
    """Return findings as Markdown, a heading each."""
    return "\n\n".join(part for one in findings for part in (f"### {one.title}", *one.parts()))


def _text(value: Any) -> str:
    if value is None:
        return EMPTY
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
