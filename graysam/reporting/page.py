"""From a report's Markdown to one HTML file that needs nothing else: pictures inside, no script, no request."""

import base64
import struct
from pathlib import Path
from string import Template
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor

PAGE = Path(__file__).with_name("page.html")

# Width over height from which a picture shrunk to a phone's width cannot be read, so that it scrolls like a table.
WIDE = 2.0


def to_html(markdown: str, folder: Path, title: str) -> str:
    """Return a page of a Markdown text.

    Args:
        markdown: with `#` headings, tables, and PNG pictures by their paths relative to `folder`.
        folder: where those pictures lie.
        title: of the page.

    Raises:
        ValueError: a picture that is not there, or that lies elsewhere than in files.
    """
    converter = Markdown(extensions=["tables", "toc", "sane_lists", _Standalone(folder)], output_format="html")
    body = converter.convert(markdown)
    return Template(PAGE.read_text(encoding="utf-8")).substitute(title=title, contents=converter.toc, body=body)  # type: ignore[attr-defined]


class _Standalone(Extension):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def extendMarkdown(self, md: Markdown) -> None:
        md.treeprocessors.register(_Inline(md, self.folder), "standalone", -10)  # after the toc has its anchors


class _Inline(Treeprocessor):
    """Puts pictures into the page, what is wider than a phone into boxes that scroll and that a keyboard reaches."""

    def __init__(self, md: Markdown, folder: Path) -> None:
        super().__init__(md)
        self.folder = folder

    def run(self, root: Element) -> None:
        heading = ""
        for parent in list(root.iter()):
            for place, child in enumerate(list(parent)):
                if child.tag in ("h1", "h2", "h3"):
                    heading = "".join(child.itertext())
                if child.tag == "table":
                    parent[place] = _scrolling("div", "scroll", f"Table, {heading}", child)
                if child.tag == "img":
                    parent[place] = self._inlined(child)

    def _inlined(self, picture: Element) -> Element:
        png = self._read(picture.get("src", ""))
        picture.set("src", "data:image/png;base64," + base64.b64encode(png).decode("ascii"))
        picture.set("loading", "lazy")
        width, height = struct.unpack(">II", png[16:24])
        if width <= WIDE * height:
            return picture
        return _scrolling("span", "scroll wide", f"Figure, {picture.get('alt', '')}", picture)

    def _read(self, source: str) -> bytes:
        path = self.folder / source
        if ":" in source or not path.is_file():
            raise ValueError(f"the report's picture {source} is no file in {self.folder}")
        return path.read_bytes()


def _scrolling(tag: str, classes: str, label: str, content: Element) -> Element:
    box = Element(tag, {"class": classes, "tabindex": "0", "role": "region", "aria-label": label})
    box.tail, content.tail = content.tail, None
    box.append(content)
    return box
