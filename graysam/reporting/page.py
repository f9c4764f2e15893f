"""Make one HTML file of a report's Markdown: pictures embedded, no script, no request."""

import base64
import re
import struct
from pathlib import Path

from markdown import Markdown

from graysam.reporting.document import TEMPLATES
from graysam.system.files import replacing

TITLE = "graysam: measured results"
WIDE = 2.0  # width over height from which a picture scrolls on a phone, because it is illegible at the phone's width
SCROLLING = '<{0} class="scroll{1}" tabindex="0" role="region" aria-label="{2}">{3}</{0}>'  # keyboards reach it


def to_html(markdown: str, folder: Path, title: str) -> str:
    """Convert Markdown to an HTML page.

    Args:
        markdown: with `#` headings, tables, and PNG pictures by their paths relative to `folder`.
        folder: of the pictures.
        title: of the page.

    Raises:
        ValueError: a picture that is not a file in `folder`.
    """

    def embed(match: re.Match[str]) -> str:
        words, source = match.groups()
        path = folder / source
        if ":" in source or not path.is_file():
            raise ValueError(f"the report's picture {source} is not a file in {folder}")
        png = path.read_bytes()
        data = base64.b64encode(png).decode("ascii")
        picture = f'<img alt="{words}" src="data:image/png;base64,{data}" loading="lazy">'
        width, height = struct.unpack(">II", png[16:24])
        return SCROLLING.format("span", " wide", f"Figure, {words}", picture) if width > WIDE * height else picture

    converter = Markdown(extensions=["tables", "toc", "sane_lists"], output_format="html")
    body = converter.convert(markdown)
    body = re.sub(r"<table>.*?</table>", lambda table: SCROLLING.format("div", "", "Table", table[0]), body, flags=re.S)
    body = re.sub(r'<img alt="([^"]*)" src="([^"]*)">', embed, body)
    contents = converter.toc  # type: ignore[attr-defined]
    return TEMPLATES.get_template("page.html.j2").render(title=title, contents=contents, body=body)


def write_report(markdown: str, output: Path, page: bool) -> None:
    """Write a report's Markdown to the file `output`, or with `page` to report.md and report.html in that folder."""
    files = {output / "report.md": markdown, output / "report.html": to_html(markdown, output, TITLE)} if page else {}
    for path, text in (files or {output: markdown}).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
