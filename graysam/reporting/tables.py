"""Tables of text as Markdown, and the templates around them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

EMPTY = "-"


def percent(value: float) -> str:
    """Format a share in per cent; `-` for NaN."""
    return EMPTY if math.isnan(value) else f"{100 * value:.2f}"


def render(template: str, **values: Any) -> str:
    """Fill in a file of `templates/`; an unknown name in it is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # an extra

    options: Any = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(loader=PackageLoader("graysam.reporting"), undefined=StrictUndefined, **options)
    return environment.get_template(template).render(values)


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
