"""Pictures of cases: which cases and slices are shown, and the report's sections of them."""

import re
from pathlib import Path

import numpy as np
import pytest

from graysam.imaging.channels import load_scheme
from graysam.report import main
from graysam.reporting.pictures import Folders, channels, grey_views, shown_cases
from tests.reporting.test_report import sections
from tests.support.commands import write_case


def square(rows: int) -> np.ndarray:
    """Return a (64,64) mask of a square's first rows."""
    mask = np.zeros((64, 64), np.uint8)
    mask[20 : 20 + rows, 10:30] = 1
    return mask


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (64, 64)).astype(np.uint8)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Return folders of imgs, gts and segs: three ultrasound images of DSC 1, 2/3 and 0, one of colour, a volume."""
    imgs, gts, segs = (tmp_path / name for name in ("imgs", "gts", "segs"))
    box = np.array([[10, 20, 29, 39]])
    for name, rows in (("2DBox_US_a", 20), ("2DBox_US_b", 10), ("2DBox_US_c", 0), ("2DBox_Dermoscopy_d", 20)):
        picture = image() if "US" in name else np.stack([image(1), image(2), image(3)], axis=-1)
        write_case(imgs, name, imgs=picture, boxes=box)
        write_case(gts, name, gts=square(20))
        write_case(segs, name, segs=square(rows).astype(np.uint16))
    volume = np.stack([image(z) for z in range(5)])
    truth = np.stack([square(rows) for rows in (0, 5, 8, 20, 0)])
    write_case(imgs, "3DBox_CT_e", imgs=volume, boxes=np.array([[10, 20, 1, 29, 39, 3]]), spacing=np.ones(3))
    write_case(gts, "3DBox_CT_e", gts=truth, spacing=np.ones(3))
    write_case(segs, "3DBox_CT_e", segs=truth.astype(np.uint16))
    return [imgs, gts, segs]


def options(paths: list[Path]) -> list[str]:
    return [text for pair in zip(("--cases", "--gts", "--segs"), map(str, paths), strict=True) for text in pair]


def test_cases_are_ranked_by_hand(paths: list[Path]) -> None:
    extremes, worst, left_out = shown_cases(Folders(*paths))
    assert [(view.heading, view.name, view.dsc) for view in extremes] == [
        ("CT, only", "3DBox_CT_e, slice 3", 1),
        ("US, best", "2DBox_US_a", 1),
        ("US, worst", "2DBox_US_c", 0),
        ("Dermoscopy, only", "2DBox_Dermoscopy_d", 1),
    ]
    assert [(view.name, view.dsc) for view in worst[:2]] == [("2DBox_US_c", 0), ("2DBox_US_b", pytest.approx(2 / 3))]
    assert len(worst) == 5 and left_out == []
    view = extremes[0]
    assert (view.image == image(3)).all() and view.truth is not None and view.truth.sum() == 400, "most of the truth"
    assert view.boxes.tolist() == [[10, 20, 29, 39]]
    boxes = np.array([[10, 20, 1, 29, 39, 2], [0, 0, 3, 5, 5, 4]])
    write_case(paths[0], "3DBox_CT_e", imgs=np.stack([image(z) for z in range(5)]), boxes=boxes)
    assert shown_cases(Folders(*paths))[0][0].boxes.tolist() == [[0, 0, 5, 5]], "boxes that reach the slice"


def test_what_cannot_be_scored_is_named_and_no_object_is_no_failure(
    paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    imgs, gts, segs = paths
    (gts / "2DBox_US_a.npz").unlink()
    (segs / "2DBox_US_b.npz").write_bytes(b"no archive")
    write_case(gts, "2DBox_US_c", gts=np.zeros((64, 64), np.uint8))
    write_case(imgs, "3DBox_CT_e", imgs=image()[:32], boxes=np.array([[0, 0, 5, 5]]))
    _, worst, left_out = shown_cases(Folders(*paths))
    assert [view.name for view in worst] == ["2DBox_Dermoscopy_d"]
    assert [line.partition(":")[0] for line in left_out] == ["2DBox_US_a", "2DBox_US_b", "3DBox_CT_e"]
    assert "required: the same grid" in left_out[2]
    assert main(options(paths)) == 1
    printed = capsys.readouterr()
    assert printed.err.count("2DBox_US_a: ") == 1 and "- left out: 2DBox_US_a" in printed.out


def test_grey_images_are_found_by_their_pixels(paths: list[Path]) -> None:
    views, left_out = grey_views(Folders(*paths))
    assert [view.name for view in views] == ["3DBox_CT_e, slice 2", "2DBox_US_a"] and not left_out
    write_case(paths[0], "2DBox_US_a", imgs=np.stack([image(5)] * 3, axis=-1), boxes=np.zeros((0, 4)))
    assert (grey_views(Folders(*paths))[0][1].image == image(5)).all(), "grey as RGB"
    (paths[0] / "2DBox_US_a.npz").write_bytes(b"no archive")
    views, left_out = grey_views(Folders(*paths))
    assert views[1].name == "2DBox_US_b" and left_out[0].startswith("2DBox_US_a: ")


def test_channels_are_those_that_the_network_sees() -> None:
    grey = np.random.default_rng(0).integers(50, 100, (30, 60)).astype(np.uint8)
    plain = channels(grey, load_scheme("replicate"))
    assert plain.shape == (128, 256, 3) and (plain.min(), plain.max()) == (0, 1)
    assert (plain[..., 1] == plain[..., 0]).all() and (plain[..., 2] == plain[..., 0]).all()
    for name in ("paper", "released", "perona_malik"):
        made = channels(grey, load_scheme(name))
        assert made.shape == plain.shape and not (made[..., 1] == made[..., 2]).all(), name


def test_the_report_shows_cases(paths: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "report"
    assert main([*options(paths), "-o", str(target)]) == 0
    first = {path.name: path.read_bytes() for path in target.iterdir()}
    markdown = first["report.md"].decode()
    titles = ["Successes and failures (the paper's Figure 3)", "Channels (the paper's Figure 2)", "What is missing"]
    assert sections(markdown) == titles
    assert re.findall(r"\]\((\S+\.png)\)", markdown) == ["extremes.png", "worst.png", "channels.png"]
    rows = re.findall(r"^\| (\S+, (?:best|worst|only)) +\| +(\S+) +\| +(\S.*?) +\|$", markdown, re.MULTILINE)
    assert rows[0] == ("CT, only", "100.00", "3DBox_CT_e, slice 3") and len(rows) == 4
    missing = markdown.partition("## What is missing")[2]
    assert "Figure" not in missing and first["report.html"].count(b"data:image/png") == 3
    assert b"Software" not in first["channels.png"] and b"Software" not in first["extremes.png"], "a version"


def test_what_the_folders_cannot_show_is_named(paths: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", str(paths[0])]) == 0
    text = capsys.readouterr().out
    assert sections(text) == ["Channels (the paper's Figure 2)", "What is missing"]
    assert "also give `--gts GTS --segs SEGS`" in text and "no channels" not in text
