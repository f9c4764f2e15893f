"""The recorded results: what is tracked is what the command makes of the tracked inputs, and what the README shows."""

import json
import re
from pathlib import Path

import pytest

from graysam.report import main

ROOT = Path(__file__).parents[2]
RECORD = Path("experiments/report")
INPUTS = RECORD / "inputs"
OPTIONS = ("--reference", "channels=replicate", "--over", "CT,MR,PET,US", "--modalities", "--kinds")


def test_the_recorded_report_is_what_its_inputs_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main([str(INPUTS), "-o", str(tmp_path), *OPTIONS]) == 0
    assert (tmp_path / "report.md").read_text() == (RECORD / "report.md").read_text(), "make it again, see the README"
    pictures = {path.name for path in RECORD.glob("*.png")}
    assert {path.name for path in tmp_path.glob("*.png")} == pictures != set()


def test_the_readmes_table_is_the_records() -> None:
    report = (ROOT / RECORD / "report.md").read_text()
    readme = (ROOT / "README.md").read_text()
    _, _, rest = report.partition("**DSC / official NSD (%)")
    rows = [line for line in rest.partition("\n\n")[2].partition("\n\n")[0].splitlines() if line.startswith("|")]
    assert len(rows) == 9, "head, rule, six modalities, macro average"
    assert "\n".join(rows) in readme
    assert f"python -m graysam.report {INPUTS} -o {RECORD} {' '.join(OPTIONS)}" in readme


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
