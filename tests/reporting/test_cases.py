"""Pictures of cases: which cases and slices are shown, and the report's sections of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from graysam.imaging.presets import load_scheme
from graysam.report import main
from graysam.reporting.case_figures import channels
from graysam.reporting.cases import Folders, grey_views, shown_cases
from tests.reporting.test_accuracy import HEADER
from tests.support.commands import write_case


def square(rows: int = 20, labels: int = 1) -> np.ndarray:
    """Return a (64,64) mask of the square's first rows."""
    mask = np.zeros((64, 64), np.uint8)
    mask[20 : 20 + rows, 10:30] = labels
    return mask


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (64, 64)).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Give three ultrasound images of DSC 1, 2/3 and 0, one of colour, and a volume."""
    box = np.array([[10, 20, 29, 39]])
    for name, rows in (("2DBox_US_a", 20), ("2DBox_US_b", 10), ("2DBox_US_c", 0), ("2DBox_Dermoscopy_d", 20)):
        picture = image() if "US" in name else np.stack([image(1), image(2), image(3)], axis=-1)
        write_case(tmp_path / "imgs", name, imgs=picture, boxes=box)
        write_case(tmp_path / "gts", name, gts=square())
        write_case(tmp_path / "segs", name, segs=square(rows).astype(np.uint16))
    volume = np.stack([image(z) for z in range(5)])
    truth = np.stack([square(rows) for rows in (0, 5, 8, 20, 0)])
    write_case(
        tmp_path / "imgs", "3DBox_CT_e", imgs=volume, boxes=np.array([[10, 20, 1, 29, 39, 3]]), spacing=np.ones(3)
    )
    write_case(tmp_path / "gts", "3DBox_CT_e", gts=truth, spacing=np.ones(3))
    write_case(tmp_path / "segs", "3DBox_CT_e", segs=truth.astype(np.uint16))
    return Folders(tmp_path / "imgs", tmp_path / "gts", tmp_path / "segs")


def options(folders: Folders) -> list[str]:
    return ["--cases", str(folders.cases), "--gts", str(folders.gts), "--segs", str(folders.segs)]


def sections(markdown: str) -> list[str]:
    return [line.removeprefix("## ") for line in markdown.splitlines() if line.startswith("## ")]


def test_cases_are_ranked_by_hand(folders: Folders) -> None:
    shown = shown_cases(folders)
    assert [(view.heading, view.case, view.dsc) for view in shown.extremes] == [
        ("CT, only", "3DBox_CT_e", 1),
        ("US, best", "2DBox_US_a", 1),
        ("US, worst", "2DBox_US_c", 0),
        ("Dermoscopy, only", "2DBox_Dermoscopy_d", 1),
    ]
    worst = [(view.case, view.dsc) for view in shown.worst]
    assert worst[:2] == [("2DBox_US_c", 0), ("2DBox_US_b", pytest.approx(2 / 3))] and len(worst) == 5
    assert shown.left_out == []


def test_what_cannot_be_scored_is_named_and_no_object_is_no_failure(folders: Folders) -> None:
    assert folders.gts and folders.segs and folders.cases
    (folders.gts / "2DBox_US_a.npz").unlink()
    (folders.segs / "2DBox_US_b.npz").write_bytes(b"no archive")
    write_case(folders.gts, "2DBox_US_c", gts=np.zeros((64, 64), np.uint8))
    write_case(folders.cases, "3DBox_CT_e", imgs=image()[:32], boxes=np.array([[0, 0, 5, 5]]))
    shown = shown_cases(folders)
    assert [view.case for view in shown.worst] == ["2DBox_Dermoscopy_d"]
    assert [line.partition(":")[0] for line in shown.left_out] == ["2DBox_US_a", "2DBox_US_b", "3DBox_CT_e"]
    assert "a.npz is missing" in shown.left_out[0] and "required: the same grid" in shown.left_out[2]


def test_a_volume_is_shown_where_most_of_the_truth_is(folders: Folders) -> None:
    view = shown_cases(folders).extremes[0]
    assert view.z == 3 and view.name == "3DBox_CT_e, slice 3"
    assert (view.image == image(3)).all() and view.truth is not None and view.truth.sum() == 400
    assert view.boxes.tolist() == [[10, 20, 29, 39]]
    assert folders.cases is not None
    far = np.array([[10, 20, 1, 29, 39, 2], [0, 0, 3, 5, 5, 4]])
    write_case(folders.cases, "3DBox_CT_e", imgs=np.stack([image(z) for z in range(5)]), boxes=far)
    assert shown_cases(folders).extremes[0].boxes.tolist() == [[0, 0, 5, 5]], "boxes that reach the slice"


def test_grey_images_are_found_by_their_pixels(folders: Folders) -> None:
    views, left_out = grey_views(folders)
    assert [(view.case, view.z) for view in views] == [("3DBox_CT_e", 3), ("2DBox_US_a", None)]
    assert not left_out
    without = grey_views(Folders(folders.cases))[0]
    assert without[0].z == 2, "without truth the middle of the box"
    assert folders.cases is not None
    write_case(
        folders.cases, "2DBox_US_a", imgs=np.stack([image(5)] * 3, axis=-1), boxes=np.zeros((0, 4))
    )  # grey as RGB
    assert (grey_views(folders)[0][1].image == image(5)).all()
    (folders.cases / "2DBox_US_a.npz").write_bytes(b"no archive")
    views, left_out = grey_views(folders)
    assert views[1].case == "2DBox_US_b" and left_out[0].startswith("2DBox_US_a: ")


def test_channels_are_those_that_the_network_sees() -> None:
    grey = np.random.default_rng(0).integers(50, 100, (30, 60)).astype(np.uint8)
    plain = channels(grey, load_scheme("replicate"))
    assert plain.shape == (128, 256, 3) and (plain.min(), plain.max()) == (0, 1)
    assert (plain[..., 1] == plain[..., 0]).all() and (plain[..., 2] == plain[..., 0]).all()
    for name in ("paper", "released", "perona_malik"):
        made = channels(grey, load_scheme(name))
        assert made.shape == plain.shape and not (made[..., 1] == made[..., 2]).all(), name


def test_the_report_shows_cases_twice_the_same(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text(HEADER + "2DBox_US_a,US,1,1,1\n")
    target = tmp_path / "report"
    given = [str(tmp_path / "other.csv"), *options(folders), "-o", str(target)]
    assert main(given) == 0
    first = {path.name: path.read_bytes() for path in target.iterdir()}
    markdown = first["report.md"].decode()
    assert sections(markdown)[1:3] == [
        "Successes and failures (the paper's Figure 3)",
        "Channels (the paper's Figure 2)",
    ]
    assert re.findall(r"\]\((\S+\.png)\)", markdown) == ["extremes.png", "worst.png", "channels.png"]
    rows = re.findall(r"^\| (\S+, (?:best|worst|only)) +\| +(\S+) +\| +(\S.*?) +\|$", markdown, re.MULTILINE)
    assert rows == [
        ("CT, only", "100.00", "3DBox_CT_e, slice 3"),
        ("US, best", "100.00", "2DBox_US_a"),
        ("US, worst", "0.00", "2DBox_US_c"),
        ("Dermoscopy, only", "100.00", "2DBox_Dermoscopy_d"),
    ]
    missing = markdown.partition("## What is missing")[2]
    assert "Figure" not in missing and first["report.html"].count(b"data:image/png") == 3
    assert b"Software" not in first["channels.png"] and b"Software" not in first["extremes.png"]
    assert main(given) == 0
    assert {path.name: path.read_bytes() for path in target.iterdir()} == first


def test_images_alone_give_the_channels_and_the_rest_is_named(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cases", str(folders.cases), "-o", str(tmp_path / "report")]) == 0
    text = capsys.readouterr().out
    assert sections(text) == ["Channels (the paper's Figure 2)", "What is missing"]
    assert "also give `--gts GTS --segs SEGS`" in text and "no channels" not in text
    (tmp_path / "m.csv").write_text(HEADER + "a,US,1,1,1\n")
    assert main([str(tmp_path / "m.csv"), "--gts", str(folders.gts)]) == 0
    text = capsys.readouterr().out
    assert "no channels (Figure 2)" in text and "also give `--cases IMGS --segs SEGS`" in text


def test_bad_cases_are_left_out_and_named(folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert folders.cases is not None
    (folders.cases / "2DBox_US_a.npz").write_bytes(b"no archive")
    assert main([*options(folders), "-o", str(tmp_path / "report")]) == 1
    said = capsys.readouterr()
    assert said.err.count("2DBox_US_a: ") == 1 and "- left out: 2DBox_US_a" in said.out


def test_the_list_of_worst_cases_is_of_the_masks_that_are_shown(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "2DBox_US_a,US,1,1,1\n2DBox_US_b,US,0.666667,1,1\n2DBox_US_c,US,0,0,0\n"
    for name in ("segs", "zzz"):
        (tmp_path / f"{name}.csv").write_text(HEADER + rows)
    files = [str(tmp_path / "segs.csv"), str(tmp_path / "zzz.csv")]
    assert main(files) == 0
    assert "smallest DSC (%) of zzz" in capsys.readouterr().out
    assert main([*files, *options(folders)]) == 0
    assert "smallest DSC (%) of segs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "nothing to report"),
        (["--cases", "absent"], "--cases absent is not a directory; required: a folder of case files"),
        (["--segs", "."], "--segs . holds no .npz file"),
    ],
)
def test_what_cannot_work_is_one_line(
    given: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    said = capsys.readouterr().err
    assert reason in said and len(said.splitlines()) == 1
