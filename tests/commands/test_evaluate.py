"""`python -m graysam.evaluate`: the CSV, the table, and every bad input in one line."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graysam.evaluate import main
from graysam.metrics.challenge import case_metrics
from tests.support.commands import names

CT, US, MR = "3DBox_CT_a", "2DBox_US_b", "3DBox_MR_c"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return folders of segs and gts with three cases, all of them good."""
    segs, gts = tmp_path / "segs", tmp_path / "gts"
    segs.mkdir()
    gts.mkdir()
    volume = np.zeros((6, 24, 20), np.uint8)
    volume[1:4, 5:15, 4:12] = 1
    for case in (CT, MR):
        np.savez_compressed(gts / f"{case}.npz", gts=volume, spacing=np.array([1.0, 1.0, 5.0]))
        np.savez_compressed(segs / f"{case}.npz", segs=np.roll(volume, 1, axis=0).astype(np.uint16))
    image = np.zeros((40, 30), np.uint8)
    image[5:15, 5:15], image[20:35, 10:25] = 1, 2
    np.savez_compressed(gts / f"{US}.npz", gts=image)
    np.savez_compressed(segs / f"{US}.npz", segs=np.roll(image, 2, axis=1).astype(np.uint16))
    return segs, gts


def run(folders: tuple[Path, Path], *more: str) -> int:
    """Run the command on both folders, writing metrics.csv beside them."""
    segs, gts = folders
    output = segs.parent / "metrics.csv"
    return main(["-s", str(segs), "-g", str(gts), "-o", str(output), "--workers", "1", *more])


def read_rows(folders: tuple[Path, Path]) -> dict[str, dict[str, str]]:
    """Return the CSV's rows by case."""
    with (folders[0].parent / "metrics.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_csv_and_table(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folders) == 0
    rows = read_rows(folders)
    assert list(rows) == [US, CT, MR]
    assert list(rows[CT]) == ["case", "modality", "dsc", "nsd", "nsd_contour"]
    with np.load(folders[1] / f"{US}.npz") as gts, np.load(folders[0] / f"{US}.npz") as segs:
        expected = case_metrics(gts["gts"], segs["segs"])
    assert [float(rows[US][key]) for key in ("dsc", "nsd", "nsd_contour")] == pytest.approx(expected, abs=1e-6)
    captured = capsys.readouterr()
    lines = {line.split()[0]: line.split() for line in captured.out.splitlines()}
    assert lines["US"][1:] == ["1", *(f"{100 * value:.2f}" for value in expected)]
    macro = np.mean([float(rows[case]["dsc"]) for case in rows])
    assert lines["macro"][1:4] == ["average", "3", f"{100 * macro:.2f}"]
    assert "3 of 3" in captured.err
    assert names(folders[0].parent) == ["gts", "metrics.csv", "segs"]


def test_several_workers_give_the_same_bytes(folders: tuple[Path, Path]) -> None:
    assert run(folders) == 0
    output = folders[0].parent / "metrics.csv"
    alone = output.read_bytes()
    command = [sys.executable, "-m", "graysam.evaluate", "-s", str(folders[0]), "-g", str(folders[1])]
    done = subprocess.run([*command, "-o", str(output), "--workers", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == alone


def test_the_stored_spacing_is_taken_in_array_order_unless_said(folders: tuple[Path, Path]) -> None:
    assert run(folders) == 0  # 1 mm a slice, shifted by one slice
    assert float(read_rows(folders)[CT]["nsd"]) == 1.0
    assert run(folders, "--spacing-order", "xyz") == 0  # 5 mm a slice
    assert float(read_rows(folders)[CT]["nsd"]) < 1.0


def test_gaps_and_missing_labels_are_named_where_they_matter(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    gap = np.zeros((20, 20), np.uint8)
    gap[4:10, 4:10], gap[12:18, 12:18] = 1, 3
    np.savez(folders[1] / "gap.npz", gts=gap)
    np.savez(folders[0] / "gap.npz", segs=gap)
    np.savez(folders[1] / "2DBox_US_empty.npz", gts=np.zeros((20, 20), np.uint8))
    np.savez(folders[0] / "2DBox_US_empty.npz", segs=np.ones((20, 20), np.uint16))
    assert run(folders) == 0
    rows, captured = read_rows(folders), capsys.readouterr()
    assert (rows["gap"]["dsc"], rows["gap"]["modality"]) == ("1.000000", "unknown")
    assert rows["2DBox_US_empty"]["nsd"] == "nan"
    assert "not scored: 2DBox_US_empty: no label in gts" in captured.err and "not scored: gap" not in captured.err
    assert "nan" not in captured.out
    assert run(folders, "--absent", "official") == 0
    assert [read_rows(folders)["gap"][key] for key in ("dsc", "nsd")] == ["nan", "0.000000"]
    assert "not scored: gap" in capsys.readouterr().err


def test_capitals_are_scored_and_what_is_not_read_is_counted(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[1] / f"{CT}.npz").rename(folders[1] / f"{CT}.NPZ")
    (folders[1] / "._a.npz").write_bytes(b"resource fork")
    (folders[1] / "2DBox_US_d.npz").symlink_to("not/fetched/yet.npz")
    assert run(folders) == 1
    assert set(read_rows(folders)) == {CT, US, MR}
    error = capsys.readouterr().err
    assert "left out: 2DBox_US_d: " in error and f"not read in {folders[1]}: 1 hidden" in error


def test_what_lies_in_the_folders_is_asked_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed: list[str | os.PathLike[str]] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (listed.append(folder), scandir(folder))[1])
    assert run(folders) == 0
    assert sorted(map(Path, listed)) == sorted(folders)


def test_bad_cases_are_named_left_out_and_end_in_exit_code_1(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    segs, gts = folders
    labels = np.ones((10, 10), np.uint8)
    bad = ("missing", "shape", "truncated", "nospacing")
    for case in bad:
        np.savez_compressed(gts / f"2DBox_X_{case}.npz", gts=labels)
        np.savez_compressed(segs / f"2DBox_X_{case}.npz", segs=labels)
    (segs / "2DBox_X_missing.npz").unlink()
    np.savez(segs / "2DBox_X_shape.npz", segs=np.ones((10, 11), np.uint16))
    whole = (segs / f"{CT}.npz").read_bytes()
    (segs / "2DBox_X_truncated.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(gts / "2DBox_X_nospacing.npz", gts=labels[None])
    np.savez(segs / "2DBox_X_nospacing.npz", segs=labels[None])
    np.savez(segs / "extra.npz", segs=labels)

    assert run(folders) == 1

    captured = capsys.readouterr()
    assert list(read_rows(folders)) == [US, CT, MR]
    for case in bad:
        assert f"left out: 2DBox_X_{case}: " in captured.err
    assert "extra.npz has no gts" in captured.err
    assert captured.err.splitlines()[-1] == "error: 4 of 7 cases could not be scored"
    assert " X " not in captured.out
    for path in segs.iterdir():
        path.unlink()
    (segs.parent / "metrics.csv").unlink()
    assert run(folders) == 1
    assert names(segs.parent) == ["gts", "segs"], "nothing to write"


def test_bad_folders_and_arguments_are_one_line_and_exit_code_2(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segs, gts = map(str, folders)
    none = tmp_path / "none"
    none.mkdir()
    out = str(tmp_path / "metrics.csv")
    for arguments, reason in (
        (["-s", "absent", "-g", gts, "-o", out], "-s absent is not a directory"),
        (["-s", segs, "-g", "absent", "-o", out], "absent is not a directory"),
        (["-s", segs, "-g", str(none), "-o", out], "holds no .npz"),
        (["-s", segs, "-g", gts, "-o", str(none)], "is a directory"),
        (["-s", segs, "-g", gts, "-o", out, "--overlay", "ov"], "required together"),
        (["-s", segs, "-g", gts, "-o", out, "--workers", "0"], "--workers is 0"),
    ):
        assert main(arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert reason in lines[0]


def test_overlays(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "imgs"
    images.mkdir()
    np.savez(images / f"{US}.npz", imgs=np.zeros((40, 30, 3), np.uint8), boxes=np.array([[5, 5, 14, 14]]))
    boxes = np.array([[4, 5, 1, 11, 14, 3]])
    np.savez(images / f"{CT}.npz", imgs=np.zeros((6, 24, 20), np.uint8), boxes=boxes, spacing=np.ones(3))
    overlay = tmp_path / "overlay"
    assert run(folders, "--overlay", str(overlay), "--images", str(images)) == 1
    assert names(overlay) == [f"{US}.png", f"{CT}.png"]
    assert list(read_rows(folders)) == [US, CT, MR]  # a case without its image is scored all the same
    error = capsys.readouterr().err
    assert f"{MR}: no overlay" in error
    assert error.splitlines()[-1] == "error: 1 of 3 overlays could not be drawn"


def test_labels_of_other_numbers_are_hinted_at_once_a_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:8, 2:8], mask[10:18, 10:18] = 1, 2
    first, both, third = np.minimum(mask % 2, 1), mask, np.where(mask == 2, 3, mask)
    pairs = {
        "US_a": (first * 255, first), "US_b": (first * np.uint16(255), first > 0), "US_c": (third, both),
        "US_d": (both, both), "US_e": (first, both), "US_f": (both, first), "US_g": (first * 0, first),
        "US_h": (first, np.uint8(first * 255)),
    }  # fmt: skip
    for case, (segs, gts) in pairs.items():
        for key, array in (("segs", segs), ("gts", gts)):
            (tmp_path / key).mkdir(exist_ok=True)
            np.savez_compressed(tmp_path / key / f"{case}.npz", **{key: array})
    assert run((tmp_path / "segs", tmp_path / "gts")) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert notes == [
        "note: 3 cases, first US_a: labels 255 are in segs alone, 1 in gts alone; masks of 0/255? renumber them",
        "note: 1 cases, first US_c: labels 3 are in segs alone, 2 in gts alone; labels are matched by number; "
        "renumber them",
    ]
    rows = read_rows((tmp_path / "segs", tmp_path / "gts"))
    assert [float(rows[case]["dsc"]) for case in ("US_a", "US_c", "US_d")] == [0, 0.5, 1]
