"""The command: a section for each input, what is missing named, and a page that needs nothing else."""

import base64
import json
import re
from pathlib import Path

import pytest

from graysam.report import main
from graysam.reporting.document import collect
from tests.reporting.test_accuracy import HEADER
from tests.reporting.test_probes import document, found
from tests.reporting.test_runs import make_run, summary
from tests.reporting.test_speed import a_document

SECTIONS = ["Accuracy (the paper's Table 4)", "Speed (the paper's Table 5)", "Robustness", "Training runs"]


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


def sections(markdown: str) -> list[str]:
    return [line.removeprefix("## ") for line in markdown.splitlines() if line.startswith("## ")]


def test_every_input_has_its_section(inputs: Path, tmp_path: Path) -> None:
    target = tmp_path / "report"
    assert main([str(inputs), "-o", str(target)]) == 0
    first = {path.name: path.read_bytes() for path in target.iterdir()}
    markdown = first["report.md"].decode()
    assert sections(markdown) == [*SECTIONS, "What is missing"]
    assert "no quantized baseline: no metrics file lite_medsam_int8.csv was given" in markdown
    assert set(re.findall(r"\]\((\S+\.png)\)", markdown)) == {name for name in first if name.endswith(".png")} != set()
    text = first["report.html"].decode()
    sources, links = re.findall(r'src="([^"]*)"', text), re.findall(r'href="([^"]*)"', text)
    pictures = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]
    assert pictures and all(picture.startswith(b"\x89PNG\r\n\x1a\n") for picture in pictures)
    assert all(link.startswith("#") or link == "data:," for link in links), "no request leaves the page"
    assert {link[1:] for link in links if link.startswith("#")} <= set(re.findall(r'id="([^"]*)"', text))
    assert "<script" not in text and "url(" not in text and "@import" not in text
    assert all(re.findall(r'<img alt="([^"]*)"', text)), "every picture says in words what it shows"
    assert text.count('tabindex="0" role="region" aria-label="Table"><table>') == text.count("<table>") > 0
    assert all(title in text for title in SECTIONS)


@pytest.mark.parametrize(
    ("name", "title"), list(zip(("graysam_l0_int8.csv", "benchmark.json", "probe.json", "runs"), SECTIONS, strict=True))
)
def test_any_input_makes_a_report(name: str, title: str, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(inputs / name)]) == 0
    markdown = capsys.readouterr().out
    assert sections(markdown) == [title, "What is missing"]
    missing = markdown.partition("## What is missing")[2]
    assert "no baseline" in missing and ("no speed" in missing) == (name != "benchmark.json")


def test_what_is_named_must_be_ours_and_names_must_differ(inputs: Path) -> None:
    assert len(collect([inputs / "other.csv", inputs / "other.csv"]).metrics) == 1, "the same file counts once"
    with pytest.raises(ValueError, match=r"strange\.json .*it is none of these"):
        collect([inputs / "strange.json"])
    (inputs / "more").mkdir()
    (inputs / "more" / "other.csv").write_text(HEADER)
    with pytest.raises(ValueError, match="two metrics are named other"):
        collect([inputs])
    (inputs / "benchmark.json").write_text(json.dumps({"machine": {}, "cases": {}, "results": []}))
    with pytest.raises(ValueError, match=r"the benchmark .*benchmark\.json cannot be read"):
        collect([inputs / "benchmark.json"])


def test_runs_are_found_once_and_not_inside_runs(tmp_path: Path) -> None:
    path = make_run(tmp_path, "a", 0, summary())
    make_run(tmp_path, "a", 10, summary())
    make_run(tmp_path, "a", 2, summary())
    make_run(path / "wandb", "inner", 0, summary())
    make_run(tmp_path / ".hidden", "a", 0, summary())
    found = collect([tmp_path, path, tmp_path / "a"]).runs
    assert [run.path.relative_to(tmp_path).as_posix() for run in found] == ["a/seed0", "a/seed2", "a/seed10"]


def test_the_written_file_does_not_depend_on_the_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(tmp_path / "runs", "a", seed, summary(seed / 10))) for seed in (0, 1)]
    output = tmp_path / "new" / "report.md"
    texts = []
    for order in (runs, runs[::-1]):
        assert main([*order, "-o", str(output)]) == 0
        texts.append(output.read_text())
    assert texts[0] == texts[1] and capsys.readouterr().out == texts[0] * 2
    assert [path.name for path in output.parent.iterdir()] == ["report.md"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere (required: run directories"),
        (["empty"], "it holds no input"),
        (["runs", "-o", "folder.md"], "-o folder.md is a directory"),
        (["runs", "-o", "a.txt"], "-o a.txt is a file"),
        (["runs", "--over", "CT"], "required beside it: --reference VARIANT"),
        (["runs", "--over", "CT,UT", "--reference", "a"], "--over CT, UT: no run scored such a modality"),
        ([], "nothing to report"),
        (["--cases", "absent"], "--cases absent is not a directory; required: a folder of case files"),
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
    assert printed.out == "" and reason in printed.err and len(printed.err.splitlines()) == 1
