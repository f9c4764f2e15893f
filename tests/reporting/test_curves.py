"""Learning curves: every start of a run counts, over images and not over steps."""

from pathlib import Path
from typing import Any

import cv2
import pytest

from graysam.report import main
from graysam.reporting.curves import curve_table, read_curves
from graysam.reporting.runs import images_per_step, read_run
from tests.reporting.test_report import make_run, summary

TRAINER = {"max_epochs": 3, "accumulate_grad_batches": 2, "devices": 1, "num_nodes": 1}
HEADER = "epoch,step,train/embedding_error_epoch,val/embedding_error,val/dsc_slice256/macro\n"


def run_with(folder: Path, name: str, *starts: str, **trainer: Any) -> Path:
    """Write a run of 2 x 4 images a step, with one metrics.csv a start."""
    path = make_run(folder, name, 0, summary(), epochs=None, trainer={**TRAINER, **trainer}, data={"batch_size": 4})
    for place, rows in enumerate(starts):
        version = path / "metrics" / f"version_{place}"
        version.mkdir(parents=True)
        (version / "metrics.csv").write_text(HEADER + rows)
    return path


def test_a_runs_starts_are_one_curve_over_images(tmp_path: Path) -> None:
    first = "0,9,1.5,,\n0,9,,1.25,0.5\n1,19,7.0,,\n"  # killed within the second epoch's validation
    path = run_with(tmp_path, "a", first, "1,19,0.75,,\n1,19,,0.5,0.625\n")
    curves = read_curves(read_run(path))
    assert curves is not None
    assert curves.points == {
        "train/embedding_error_epoch": [(80, 1.5), (160, 0.75)],
        "val/embedding_error": [(80, 1.25), (160, 0.5)],
        "val/dsc_slice256/macro": [(80, 0.5), (160, 0.625)],
    }
    table = curve_table(curves)
    assert table.rows == [["80", "1.500", "1.250", "50.00"], ["160", "0.750", "0.500", "62.50"]]


def test_starts_are_read_in_their_order_beyond_ten(tmp_path: Path) -> None:
    path = run_with(tmp_path, "a", *(f"0,9,{number}.0,,\n" for number in range(12)))
    curves = read_curves(read_run(path))
    assert curves is not None and curves.points == {"train/embedding_error_epoch": [(80, 11.0)]}


def test_images_of_all_ranks_count(tmp_path: Path) -> None:
    config = {"trainer": {**TRAINER, "devices": 4, "num_nodes": 2}, "data": {"batch_size": 3}}
    assert images_per_step(config) == 48
    for unknown in ("auto", -1, "4", [0, 1]):
        unclear = {**config, "trainer": {**TRAINER, "devices": unknown}}
        assert images_per_step(unclear) is None
        assert images_per_step(unclear, 4) == 24, "run.json says it"
    assert images_per_step({"trainer": TRAINER, "data": {}}) is None


def test_the_command_draws_and_tabulates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_with(tmp_path / "runs", "a", "0,9,1.5,,\n0,9,,1.25,0.5\n")
    run_with(tmp_path / "runs", "b")
    given = [str(tmp_path / "runs"), "-o", str(tmp_path / "new")]
    assert main(given) == 0
    assert "**Learning curve: a, seed 0**" in capsys.readouterr().out
    picture = tmp_path / "new" / "learning.png"
    drawn, image = picture.read_bytes(), cv2.imread(str(picture))
    assert image.shape[1] > 2 * image.shape[0] and image.min() < 100, "two panels, and something in them"
    assert main(given) == 0 and picture.read_bytes() == drawn


@pytest.mark.parametrize("rows", ["0,nine,1.5,,\n", "0,9,high,,\n"])
def test_damaged_metrics_are_said_in_one_line(rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_with(tmp_path / "runs", "a", rows)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "new")]) == 1
    assert "cannot be read as a CSV logger's" in capsys.readouterr().err
    assert "- no learning curve of " in (tmp_path / "new" / "report.md").read_text(), (
        "the rest is reported all the same"
    )
