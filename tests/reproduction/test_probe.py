"""The probe: boxes by hand, a stub network that fills its box, and the command."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graysam.imaging.channels import load_scheme
from graysam.io.image import Image
from graysam.probe import main
from graysam.reporting.probes import read_probe
from graysam.reproduction.probing import CHANGES, changed_boxes, probe_image
from tests.support.commands import BOXES_2D, image_2d, write_case


class FillsItsBox:
    """A backend whose mask is its box, with a predicted IoU of 0.5."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images

    def decode(self, embedding: np.ndarray, grid_boxes: np.ndarray, valid_size: object = None) -> tuple:
        y, x = np.mgrid[:256, :256]
        logits = [np.where((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1), 5.0, -5.0) for x0, y0, x1, y1 in grid_boxes]
        return np.array(logits, np.float32), np.full(len(grid_boxes), 0.5, np.float32)


PREDICTOR: Any = SimpleNamespace(backend=FillsItsBox(), scheme=load_scheme("replicate"), size=256)


def test_boxes_are_changed_by_shares_of_their_sides() -> None:
    boxes = changed_boxes(np.array([50, 60, 69, 99], float), 200, 200)  # 20 wide, 40 high
    assert boxes.shape == (1 + 4 * 4 + 4 + 4, 4)
    assert boxes[0].tolist() == [50, 60, 69, 99]
    assert boxes[5:9].tolist() == [[48, 60, 67, 99], [52, 60, 71, 99], [50, 56, 69, 95], [50, 64, 69, 103]], "by 0.1"
    assert boxes[19].tolist() == [48, 56, 71, 103], "enlarged by 0.2"
    assert boxes[23].tolist() == [52, 64, 67, 95], "shrunk by 0.2"
    clipped = changed_boxes(np.array([0, 0, 9, 9], float), 12, 12)
    assert clipped.min() == 0 and clipped.max() == 11


def test_an_objects_scores_by_hand() -> None:
    """On a 256 image the grid is the image; the truth is the box, so each DSC is that of two rectangles."""
    gts = np.zeros((256, 256), np.uint8)
    gts[60:100, 50:70] = 7
    (found,) = probe_image(Image(np.full((256, 256), 90, np.uint8), modality="US", name="2DBox_US_a"), gts, PREDICTOR)
    changed = found.pop("changed")
    tight = {"area_share": 800 / 256**2, "predicted_iou": 0.5, "iou": 1.0, "dsc": 1.0}
    assert found == {"case": "2DBox_US_a", "modality": "US", "label": 7, **tight}
    assert {name: len(values) for name, values in changed.items()} == {n: len(a) for n, a in CHANGES.items()}
    assert changed["shifted"][1] == pytest.approx(0.9), "by 0.1: both sides lose a tenth of their overlap"
    assert changed["enlarged"][2] == pytest.approx(2 * 800 / (800 + 24 * 48)), "by 0.2"
    assert changed["shrunk"][2] == pytest.approx(2 * 16 * 32 / (800 + 16 * 32)), "by 0.2"


def test_a_volumes_object_is_probed_where_it_is_largest() -> None:
    gts = np.zeros((4, 64, 64), np.uint8)
    gts[1, 10:20, 10:20] = 1
    gts[2, 10:30, 10:30] = 1
    gts[1, 40:50, 40:50] = 2
    image = Image(np.full((4, 64, 64), 90, np.uint8), name="3DBox_CT_a", modality="CT", is_volume=True)
    found = {probe["label"]: probe for probe in probe_image(image, gts, PREDICTOR)}
    assert found[1]["area_share"] == 400 / 64**2 and found[2]["area_share"] == 100 / 64**2
    assert found[1]["dsc"] > 0.9
    with pytest.raises(ValueError, match=r"gts have shape \(3, 64, 64\)"):
        list(probe_image(image, gts[1:], PREDICTOR))


def test_the_command_skips_a_bad_case(tmp_path: Path, tiny_exported: Path, capsys: pytest.CaptureFixture) -> None:
    gts = np.zeros(image_2d().shape, np.uint8)
    for label, (x0, y0, x1, y1) in enumerate(BOXES_2D, start=1):
        gts[y0 : y1 + 1, x0 : x1 + 1] = label
    for name in ("2DBox_US_a", "2DBox_US_b"):
        write_case(tmp_path / "imgs", name, imgs=image_2d(), boxes=BOXES_2D)
    write_case(tmp_path / "gts", "2DBox_US_a", gts=gts)
    target = tmp_path / "new" / "probe.json"
    folders = ["-i", str(tmp_path / "imgs"), "-g", str(tmp_path / "gts")]
    assert main([*folders, "--model", str(tiny_exported), "-o", str(target)]) == 1
    assert "2DBox_US_b" in capsys.readouterr().err.splitlines()[-1]
    document = json.loads(target.read_text())
    assert (document["name"], document["precision"]) == ("tiny", "fp32")
    assert read_probe(target).name == "tiny fp32"
    assert [found["case"] for found in document["objects"]] == ["2DBox_US_a"] * 2
    assert all(0 <= found["dsc"] <= 1 for found in document["objects"])


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("-i", "absent", "absent is not a directory"),
        ("-o", "imgs", "imgs is a directory"),
        ("--model", "absent.pth", "absent.pth does not exist"),
    ],
)
def test_unusable_arguments_are_one_line(
    option: str, value: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    imgs = write_case(tmp_path / "imgs", "2DBox_US_a", imgs=image_2d(), boxes=BOXES_2D).parent
    given = ["-i", str(imgs), "-g", str(imgs), "-o", str(tmp_path / "out.json"), "--model", "lite_medsam"]
    assert main([*given, option, str(tmp_path / value)]) == 2
    assert reason in capsys.readouterr().err and not (tmp_path / "out.json").exists()
