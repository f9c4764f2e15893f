"""The recorded results: what is tracked is what the command makes of the tracked inputs, and what documents show."""

import json
import re
from pathlib import Path

import pytest

from graysam.report import main

ROOT = Path(__file__).parents[2]
RECORD = Path("docs/results/report")
INPUTS = RECORD / "inputs"
OPTIONS = ("--reference", "channels=replicate", "--over", "CT,MR,PET,US", "--modalities", "--methods")


def test_the_recorded_report_is_what_its_inputs_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main([str(INPUTS), "-o", str(tmp_path), *OPTIONS]) == 0
    assert (tmp_path / "report.md").read_text() == (RECORD / "report.md").read_text(), "make it again"
    pictures = {path.name for path in RECORD.glob("*.png")}
    assert {path.name for path in tmp_path.glob("*.png")} == pictures != set()


def cells(text: str) -> list[list[str]]:
    """Return the cells of a text's table rows, without rules and padding."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if not set("".join(row)) <= set("-:")]


def test_the_documents_table_is_the_records() -> None:
    report = (ROOT / RECORD / "report.md").read_text()
    rows = cells(report.partition("**DSC / official NSD (%)")[2].partition("\n\n")[2].partition("\n\n")[0])
    assert len(rows) == 8, "head, six modalities, macro average"
    for name in ("README.md", "docs/results/index.md"):
        assert [row for row in cells((ROOT / name).read_text()) if row in rows] == rows, name
    how_to = (ROOT / "docs/how-to/report.md").read_text()
    assert f"python -m graysam.report {INPUTS} -o {RECORD} {' '.join(OPTIONS)}" in how_to


def test_recorded_inputs_name_nobodys_folders() -> None:
    """Absolute paths say nothing to others."""
    files = [path for path in (ROOT / INPUTS).rglob("*") if path.is_file()]
    assert files
    for path in files:
        text = path.read_text()
        found = re.findall(r"(?<![\w.\]/])/(?:root|home|work|tmp|Users)/\S*", text)
        assert found == [], path
        if path.suffix == ".json":
            json.loads(text)
