"""The command: a section for each input, what is missing named, and a page that needs nothing else."""

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
from tests.reporting.test_probes import document, found
from tests.reporting.test_runs import make_run, summary
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
    (folder / "probe.json").write_text(json.dumps(document(found())))
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


@pytest.mark.parametrize(
    ("name", "title", "missing"),
    [
        ("graysam_l0_int8.csv", SECTIONS[0], "no baseline"),
        ("benchmark.json", SECTIONS[1], "no robustness"),
        ("probe.json", SECTIONS[2], "no speed"),
        ("runs", SECTIONS[3], "no speed"),
    ],
)
def test_any_input_makes_a_report(name: str, title: str, missing: str, inputs: Path, tmp_path: Path) -> None:
    assert main([str(inputs / name), "-o", str(tmp_path / "report")]) == 0
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert sections(markdown) == [title, "What is missing"]
    assert missing in markdown.partition("## What is missing")[2]
    assert (tmp_path / "report" / "report.html").is_file()


def test_what_is_named_must_be_ours_and_names_must_differ(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"strange\.json .*it is none of these"):
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
    (inputs / "benchmark.json").write_text(json.dumps({"machine": {}, "cases": {}, "results": []}))
    assert main([str(inputs / "benchmark.json")]) == 2
    assert "a benchmark cannot be read" in capsys.readouterr().err


def test_a_picture_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for source in ("absent.png", "https://example.org/a.png"):
        with pytest.raises(ValueError, match="is not a file in"):
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


def test_runs_are_found_once_and_not_inside_runs(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a", 0, summary())
    make_run(tmp_path, "a", 10, summary())
    make_run(tmp_path, "a", 2, summary())
    make_run(path / "wandb", "inner", 0, summary())
    make_run(tmp_path / ".hidden", "a", 0, summary())
    found = collect([tmp_path, path, tmp_path / "a"]).runs
    assert [run.path.relative_to(tmp_path).as_posix() for run in found] == ["a/seed0", "a/seed2", "a/seed10"]


def test_the_written_file_is_deterministic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "runs", "a", seed, summary(seed / 10))
    output = tmp_path / "new" / "report.md"
    texts = []
    for order in (["runs/a/seed0", "runs/a/seed1"], ["runs/a/seed1", "runs/a/seed0"]):
        assert main([*(str(tmp_path / place) for place in order), "-o", str(output)]) == 0
        texts.append(output.read_text())
    assert texts[0] == texts[1]
    assert capsys.readouterr().out == texts[0] * 2
    assert [path.name for path in output.parent.iterdir()] == ["report.md"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere (required: run directories"),
        (["empty"], "it holds no input"),
        (["runs", "-o", "folder.md"], "-o folder.md is a folder"),
        (["runs", "-o", "a.txt"], "-o a.txt is a file"),
        (["a.txt"], "it is none of these"),
        (["runs", "-o", "runs/a/seed0/config.json/x.md"], "config.json"),
        (["runs", "--over", "CT"], "required beside it: --reference VARIANT"),
    ],
)
def test_bad_arguments_end_with_one_line_and_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.md").mkdir()
    (tmp_path / "a.txt").touch()
    make_run(tmp_path / "runs", "a", 0, summary())
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert reason in printed.err
    assert len(printed.err.splitlines()) == 1


def test_the_former_option_ends_in_the_new_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["runs", "--kinds"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --kinds has been renamed; use --methods\n"
