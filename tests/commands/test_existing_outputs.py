"""Every command's output over what is there: over its own results, and nothing else without `--overwrite`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import graysam.predict
from graysam import benchmark, evaluate, export, predict, probe, report
from graysam.reporting.evaluation import COLUMNS
from tests.support.commands import names, save_tiny_model, write_case

NAMES = ("2DBox_US_0", "2DBox_US_1")
SQUARE = np.zeros((20, 20), np.uint16)
SQUARE[2:9, 2:9] = 1
HEADER = ",".join(COLUMNS)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let predict segment squares, and return a list that has an item for every time that a model was loaded."""
    loaded: list[int] = []

    def open_predictor(*_: object) -> Any:
        loaded.append(1)
        return SimpleNamespace(predict=lambda *_, **__: SQUARE)

    monkeypatch.setattr(graysam.predict, "open_predictor", open_predictor)
    return loaded


@pytest.fixture(autouse=True)
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write cases to imgs, their ground truths to gts and masks to segs, and make their parent the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        write_case(Path("imgs"), name, imgs=np.ones((20, 20), np.uint8), boxes=np.array([[2, 2, 8, 8]]))
        write_case(Path("gts"), name, gts=SQUARE)
        write_case(Path("segs"), name, segs=SQUARE)


def run_predict(*more: str) -> int:
    return predict.main(["-i", "imgs", "-o", "out", "--model", "any", *more])


def run_evaluate(*more: str) -> int:
    return evaluate.main(["-s", "segs", "-g", "gts", "-o", "metrics.csv", "--workers", "1", *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_predict_leaves_the_ground_truth_as_it_is(model: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(Path("gts"))
    assert run_predict("-o", "gts") == 2
    assert not model, "refused before a model is loaded"
    reason = (
        "-o gts holds 2 files of the results' names that graysam has not written, or that have changed since, first"
    )
    assert capsys.readouterr().err.startswith(f"error: {reason} {NAMES[0]}.npz; give another folder, or --overwrite")
    assert contents(Path("gts")) == before
    assert run_predict("-o", "gts", "--overwrite") == 0
    with np.load(f"gts/{NAMES[0]}.npz") as file:
        assert file.files == ["segs"]


def test_predict_writes_over_its_own_results_as_they_were(model: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run_predict("--overlay", "pictures") == 0
        assert (len(names(Path("out"))), len(names(Path("pictures")))) == (2, 2)
    assert len(model) == 2
    Path("pictures", f"{NAMES[1]}.png").write_bytes(b"edited by hand")
    assert run_predict("--overlay", "pictures") == 2
    assert "--overlay pictures holds 1 files of the results' names" in capsys.readouterr().err
    assert len(model) == 2


@pytest.mark.parametrize("link", [False, True])
def test_predict_never_writes_over_its_input(model: list[int], capsys: pytest.CaptureFixture[str], link: bool) -> None:
    before = contents(Path("imgs"))
    if link:
        Path("other").symlink_to("imgs")
    else:  # one file by two names
        Path("other").mkdir()
        os.link(f"imgs/{NAMES[1]}.npz", f"other/{NAMES[1]}.npz")
    assert run_predict("-o", "other", "--overwrite") == 2
    wanted = "is the input directory" if link else f"{NAMES[1]}.npz is a file that this run reads"
    assert wanted in capsys.readouterr().err
    assert (contents(Path("imgs")), model) == (before, [])


def test_a_failed_case_leaves_no_older_result(model: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_predict("--overlay", "pictures") == 0
    for name in NAMES:
        Path("imgs", f"{name}.npz").write_bytes(b"damaged meanwhile")
    Path("out", f"{NAMES[1]}.npz").write_bytes(b"edited by hand")
    assert run_predict("--overlay", "pictures", "--overwrite") == 1
    ours, foreign = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    removed = [
        f"; {Path(folder)} of an earlier run is removed"
        for folder in (f"out/{NAMES[0]}.npz", f"pictures/{NAMES[0]}.png")
    ]
    assert ours.endswith("".join(removed))
    assert (
        f"; {Path('out', NAMES[1])}.npz is not of this run; {Path('pictures', NAMES[1])}.png of an earlier" in foreign
    )
    assert (names(Path("out")), names(Path("pictures"))) == ([f"{NAMES[1]}.npz"], [])


@pytest.mark.parametrize("folder", ["gts", "segs", "imgs"])
def test_evaluate_never_writes_over_what_it_reads(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(Path(folder))
    pictures = ("--overlay", "pictures", "--images", "imgs")
    assert run_evaluate("-o", f"{folder}/{NAMES[0]}.npz", "--overwrite", *pictures) == 2
    assert f"-o {Path(folder, NAMES[0])}.npz is a file that this run reads" in capsys.readouterr().err
    assert contents(Path(folder)) == before


def test_evaluate_writes_over_tables_of_its_own_and_through_links(capsys: pytest.CaptureFixture[str]) -> None:
    foreign = "a table of somebody else's work\n"
    for name in ("real.csv", "foreign.csv"):
        Path(name).write_text(foreign)
    Path("link.csv").symlink_to("real.csv")
    assert run_evaluate("-o", "foreign.csv") == 2
    assert "-o foreign.csv exists, and graysam has not written it" in capsys.readouterr().err
    assert Path("foreign.csv").read_text() == foreign
    for name in ("link.csv", "link.csv", "real.csv"):
        assert run_evaluate("-o", name) == 0
        assert Path("link.csv").is_symlink() and Path("real.csv").read_text().startswith(HEADER)
    assert run_evaluate("-o", "foreign.csv", "--overwrite") == 0


def test_evaluate_prints_its_table_before_a_file_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate, "write_metrics", full)
    assert run_evaluate() == 2
    captured = capsys.readouterr()
    assert "macro average" in captured.out and "No space left" in captured.err


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX systems")
def test_evaluate_writes_to_a_process_substitution(tmp_path: Path) -> None:
    command = f"{sys.executable} -m graysam.evaluate -s segs -g gts --workers 1 -o >(cat > got); wait $!"
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ | root, check=True)
    assert done.returncode == 0, done.stderr
    assert Path("got").read_text().startswith(HEADER)


def test_a_table_that_no_case_is_written_to_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_evaluate() == 0
    assert "earlier run" not in capsys.readouterr().err
    for name in NAMES:
        Path("segs", f"{name}.npz").write_bytes(b"damaged meanwhile")
    assert run_evaluate() == 1
    assert "note: metrics.csv is of an earlier run" in capsys.readouterr().err
    if sys.platform != "win32":
        assert run_evaluate("-o", "/dev/stdout") == 1
        assert "earlier run" not in capsys.readouterr().err


def test_overlays_of_evaluate_are_listed_and_stale_ones_removed(capsys: pytest.CaptureFixture[str]) -> None:
    pictures = ("--overlay", "pictures", "--images", "imgs")
    assert run_evaluate(*pictures, "--workers", "2") == 0
    Path("imgs", f"{NAMES[0]}.npz").write_bytes(b"damaged meanwhile")
    assert run_evaluate(*pictures) == 1
    assert f"{Path('pictures', NAMES[0])}.png of an earlier run is removed" in capsys.readouterr().err
    Path("pictures", f"{NAMES[1]}.png").write_bytes(b"edited by hand")
    assert run_evaluate(*pictures) == 2
    assert "--overlay pictures holds 1 files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "arguments", "file"),
    [
        (probe.main, "-i imgs -g gts --model absent -o mine/a.json", "mine/a.json"),
        (benchmark.main, "--input imgs -o mine", "mine/seconds.png"),
        (report.main, "--cases imgs -o mine", "mine/seconds.png"),
        (report.main, "--cases imgs -o mine/report.md", "mine/report.md"),
        (report.main, "--reproducibility-checks -o mine/a.json", "mine/a.json"),
    ],
)
def test_documents_do_not_replace_foreign_files(
    capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], arguments: str, file: str
) -> None:
    """Refused before the work."""
    Path("mine").mkdir()
    Path(file).write_text('{"settings": 1}')
    assert main(arguments.split()) == 2
    assert f"-o {Path(file)} exists, and graysam has not written it" in capsys.readouterr().err
    assert Path(file).read_text() == '{"settings": 1}'


def test_export_refuses_foreign_files_and_its_own_model(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    save_tiny_model(Path("tiny.safetensors"))
    weights = ["tiny.safetensors", "--format", "weights", "-o"]
    Path("other.safetensors").write_bytes(b"somebody else's")
    assert export.main([*weights, "tiny.safetensors", "--overwrite"]) == 2
    assert "is a file that this run reads" in capsys.readouterr().err
    assert export.main([*weights, "other.safetensors"]) == 2
    assert "graysam has not written it; give another name, or --overwrite" in capsys.readouterr().err
    for more in (["--overwrite"], []):
        assert export.main([*weights, "other.safetensors", *more]) == 0
    assert export.main(["absent.pth", "-o", "gts", "--precision", "fp32"]) == 2, "before the model is read"
    assert "gts holds something else than an exported model" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        export.main(["absent.pth", "-o", "new", "--overwrite"])
    assert "--overwrite requires --format weights" in capsys.readouterr().err
