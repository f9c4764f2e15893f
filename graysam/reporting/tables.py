"""Tables of text as Markdown."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from tabulate import tabulate

EMPTY = "-"


def percent(value: float) -> str:
    """Format a share in per cent; `-` for NaN."""
    return EMPTY if math.isnan(value) else f"{100 * value:.2f}"


class Table(NamedTuple):
    """A title ("" for none), column names, and rows of text; the first `labels` columns are aligned to the left."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    def __str__(self) -> str:
        """Return the title in bold and the table, as Markdown."""
        header, *rows = [[text.replace("|", r"\|") for text in row] for row in (self.columns, *self.rows)]
        align = ["left" if column < self.labels else "right" for column in range(len(header))]
        text = tabulate(rows, header, tablefmt="pipe", colalign=align if rows else None, disable_numparse=True)
        return f"**{self.title}**\n\n{text}" if self.title else text
