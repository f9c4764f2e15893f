"""Tables of text as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

EMPTY = "-"


@dataclass(frozen=True)
class Table:
    """A title ("" for none), column names, and rows of text; the first `labels` columns are aligned to the left."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    def markdown(self) -> str:
        """Return the title in bold and the table."""
        header, *rows = [[text.replace("|", r"\|") for text in row] for row in (self.columns, *self.rows)]
        align = ["left" if column < self.labels else "right" for column in range(len(header))]
        text = tabulate(rows, header, tablefmt="pipe", colalign=align if rows else None, disable_numparse=True)
        return f"**{self.title}**\n\n{text}" if self.title else text

    def __str__(self) -> str:
        return self.markdown()
