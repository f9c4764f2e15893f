"""The whole report: a section for each input, what is missing named, and a page that needs nothing else."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graysam.report import main
from graysam.reporting.inputs import collect
from graysam.reporting.page import to_html
from tests.reporting.test_accuracy import HEADER
from tests.reporting.test_probes import found
from tests.reporting.test_report import make_run, summary
from tests.reporting.test_speed import a_document

SECTIONS = ["Accuracy (the paper's Table 4)", "Speed (the paper's Table 5)", "Robustness", "Training runs"]
PNG = bytes.fromhex("89504e470d0a1a0a0000000d494844520000000100000001080000000037fcf5")  # the beginning of one


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Give a folder with one input of each kind, and files of other kinds beside them."""
    folder = tmp_path / "inputs"
    trainer = {"max_epochs": 3, "accumulate_grad_batches": 1, "devices": 1, "num_nodes": 1}
    make_run(folder / "runs", "a", 0, summary(), trainer=trainer, data={"batch_size": 8})
    for name, dsc in (("lite_medsam_fp32", 0.5), ("graysam_l0_int8", 0.75), ("other", 0.25)):
        rows = "".join(f"{m}_{i},{m},{dsc},{dsc},{dsc / 2}\n" for m in ("CT", "US") for i in range(3))
        (folder / f"{name}.csv").write_text(HEADER + rows)
    probe = {"name": "tiny", "kind": "int8", "changes": {"shifted": [0.1]}, "objects": [found()]}
    (folder / "probe.json").write_text(json.dumps(probe))
    (folder / "benchmark.json").write_text(json.dumps(a_document()))
    (folder / "strange.json").write_text("[1]")
    (folder / "strange.csv").write_text("a,b\n1,2\n")
    return folder


class Page(HTMLParser):
    """Collects what a page refers to, its headings and the attributes of its tables' parents."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str | None] = []
        self.stack: list[tuple[str, dict[str, str | None]]] = []
        self.table_parents: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.sources += [str(given[key]) for key in ("src", "srcset", "data") if key in given]
        self.ids |= {str(given["id"])} if "id" in given else set()
        if tag in ("a", "link"):
            self.links.append(str(given.get("href")))
        if tag == "img":
            self.words.append(given.get("alt"))
        if tag == "table":
            self.table_parents.append(self.stack[-1][1])
        if tag not in ("meta", "link", "img", "br", "hr"):
            self.stack.append((tag, given))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag, "the page nests as it should"


def sections(markdown: str) -> list[str]:
    return [line.removeprefix("## ") for line in markdown.splitlines() if line.startswith("## ")]


def test_every_input_has_its_section_twice_the_same(inputs: Path, tmp_path: Path) -> None:
    target = tmp_path / "report"
    assert main([str(inputs), "-o", str(target)]) == 0
    first = {path.name: path.read_bytes() for path in target.iterdir()}
    markdown = first["report.md"].decode()
    assert sections(markdown) == [*SECTIONS, "What is missing"]
    assert "no quantized baseline: no metrics file lite_medsam_int8.csv was given" in markdown
    assert set(re.findall(r"\]\((\S+\.png)\)", markdown)) == {name for name in first if name.endswith(".png")} != set()
    assert main([str(inputs), "-o", str(target)]) == 0
    assert {path.name: path.read_bytes() for path in target.iterdir()} == first


def test_the_page_needs_nothing_else(inputs: Path, tmp_path: Path) -> None:
    assert main([str(inputs), "-o", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.stack == [] and page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert {base64.b64decode(source.partition(",")[2])[:8] for source in page.sources} == {PNG[:8]}
    assert all(link.startswith("#") or link == "data:," for link in page.links), "no request leaves the page"
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert "<script" not in text and "url(" not in text and "@import" not in text
    assert all(page.words), "every picture says in words what it shows"
    assert all(parent.get("tabindex") == "0" and parent.get("aria-label") for parent in page.table_parents)
    for title in SECTIONS:
        assert title.replace("'", "&#x27;") in text or title in text


def test_any_subset_makes_a_report(inputs: Path, tmp_path: Path) -> None:
    for number, (given, title, missing) in enumerate(
        [
            (["graysam_l0_int8.csv"], SECTIONS[0], "no baseline"),
            (["benchmark.json"], SECTIONS[1], "no robustness"),
            (["probe.json"], SECTIONS[2], "no speed"),
            (["runs"], SECTIONS[3], "no speed"),
        ]
    ):
        target = tmp_path / str(number)
        assert main([*(str(inputs / name) for name in given), "-o", str(target)]) == 0
        markdown = (target / "report.md").read_text()
        assert sections(markdown) == [title, "What is missing"]
        assert missing in markdown.partition("## What is missing")[2]
        assert (target / "report.html").is_file()


def test_the_worst_cases_are_listed_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"case{i},US,{(7 * i) % 12 / 100},1,1\n" for i in range(12))
    (tmp_path / "m.csv").write_text(HEADER + rows)
    assert main([str(tmp_path / "m.csv")]) == 0
    listed = re.findall(r"^\| (case\d+) +\| US +\| +(\S+) \|$", capsys.readouterr().out, re.MULTILINE)
    assert [float(dsc) for _, dsc in listed] == list(range(10))
    assert listed[1][0] == "case7"


def test_what_is_named_must_be_ours_and_names_must_differ(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"strange\.json is no metrics file, probe, benchmark or findings"):
        collect([inputs / "strange.json"])
    (inputs / "more").mkdir()
    (inputs / "more" / "other.csv").write_text(HEADER)
    with pytest.raises(ValueError, match="two metrics files are named other"):
        collect([inputs])
    (inputs / "more" / "other.csv").unlink()
    (inputs / "more" / "probe.json").write_text((inputs / "probe.json").read_text())
    with pytest.raises(ValueError, match="two probes are of tiny int8"):
        collect([inputs])
    assert len(collect([inputs / "other.csv", inputs / "other.csv"]).metrics) == 1, "the same file counts once"


def test_a_damaged_benchmark_is_one_line(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inputs / "benchmark.json").write_text(
        json.dumps({"machine": {}, "competitors": {"a": {}}, "cases": {}, "results": []})
    )
    assert main([str(inputs / "benchmark.json")]) == 2
    assert "a benchmark cannot be read" in capsys.readouterr().err


def test_a_picture_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for source in ("absent.png", "https://example.org/a.png"):
        with pytest.raises(ValueError, match="is no file in"):
            to_html(f"# A\n\n![words]({source})", tmp_path, "A")


def test_a_picture_too_wide_for_a_phone_scrolls_like_a_table(tmp_path: Path) -> None:
    header = "89504e470d0a1a0a0000000d49484452{:08x}{:08x}0802000000"
    (tmp_path / "wide.png").write_bytes(bytes.fromhex(header.format(1200, 400)))
    (tmp_path / "tall.png").write_bytes(bytes.fromhex(header.format(1200, 800)))
    text = to_html("# A\n\n![three to one](wide.png)\n\nBetween.\n\n![three to two](tall.png)\n\nAfter.", tmp_path, "A")
    boxes = re.findall(r'<span[^>]*class="scroll wide"[^>]*>', text)
    assert len(boxes) == 1 and 'tabindex="0"' in boxes[0] and 'aria-label="Figure, three to one"' in boxes[0]
    body = re.sub(r"<[^>]*>", "", text[text.index("<main") :])
    assert body.split() == ["A", "Between.", "After."]
    assert Page(text).words == ["three to one", "three to two"]
