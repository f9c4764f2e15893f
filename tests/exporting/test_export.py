"""Export: a bundle says where it comes from and segments as torch does, or it is not kept."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import graysam.export
from graysam.data.dataset import Item
from graysam.data.packing import pack
from graysam.data.shards import ShardReader
from graysam.data.sources import ImageSource
from graysam.exporting import pipeline
from graysam.exporting.pipeline import Row, compare_slices, shortcomings, summarize
from graysam.imaging.channels import load_scheme
from graysam.inference.exported_model import read_exported
from tests.support.commands import BOXES_2D, image_2d, save_tiny_model, write_case


# ------------------------------------------------------------------ the gate
def row(modality: str, reference: float, exported: float, same: float = 1.0) -> Row:
    return modality, (same, reference, reference, exported, exported)


def test_the_summary_averages_objects_then_modalities() -> None:
    summary = summarize([row("CT", 0.8, 0.7, 0.9), row("CT", 0.6, 0.7, 0.8), row("US", 0.9, 0.5, 0.6)])
    assert summary["CT"] == pytest.approx(
        {"n": 2, "same": 0.85, "reference_dsc": 0.7, "reference_nsd": 0.7, "dsc": 0.7, "nsd": 0.7}
    )
    assert summary["macro"]["same"] == pytest.approx((0.85 + 0.6) / 2)
    assert summary["macro"]["dsc"] == pytest.approx((0.7 + 0.5) / 2)
    assert summary["macro"]["n"] == 3
    assert summarize([]) == {}
    assert summarize([row("CT", 0.5, 0.5, float("nan"))])["CT"]["same"] == 1, "two empty masks are the same"


def test_float32_must_give_the_same_masks_everywhere() -> None:
    good, bad = row("CT", 0.5, 0.5, 0.9995), row("US", 0.5, 0.9, 0.9985)
    assert shortcomings(summarize([good]), "fp32") == []
    assert [text.split(":")[0] for text in shortcomings(summarize([good, bad]), "fp32")] == ["US"]
    assert shortcomings({}, "fp32") == ["nothing was compared"]


def test_fewer_bits_may_lose_a_little_and_gain_anything() -> None:
    even = [row(name, 0.8, 0.8) for name in "abc"]
    assert shortcomings(summarize([*even, row("d", 0.8, 0.9, 0.5)]), "int8") == []
    assert shortcomings(summarize([*even, row("d", 0.8, 0.7935)]), "bf16") == []
    lines = shortcomings(summarize([*even, row("d", 0.8, 0.7925)]), "bf16")
    assert [line.split(" is")[0] for line in lines] == ["d: DSC", "d: NSD"]
    lines = shortcomings(summarize([row(name, 0.8, 0.7965) for name in "abcd"]), "int8")
    assert [line.split(" is")[0] for line in lines] == ["macro: DSC", "macro: NSD"]
    assert shortcomings(summarize([row("a", 0.8, float("nan"))]), "int8"), "what is not measured does not pass"


class Threshold:
    """A backend whose mask is what is brighter than a level."""

    def __init__(self, level: float) -> None:
        self.level = level

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0]

    def decode(self, embedding: np.ndarray, grid_boxes: np.ndarray, valid_size: object = None) -> tuple:
        return np.stack([embedding - self.level] * len(grid_boxes)), np.zeros(len(grid_boxes))


def test_slices_are_compared_object_by_object() -> None:
    image = np.zeros((3, 16, 16), np.float32)
    image[:, 2:6, 2:6], image[:, 2:4, 2:6] = 0.6, 0.9
    truth = np.zeros((1, 16, 16), bool)
    truth[0, 2:6, 2:6] = True
    boxes = torch.tensor([[2.0, 2.0, 5.0, 5.0]])
    item = Item("key", "CT_a", "CT", torch.from_numpy(image), boxes, torch.from_numpy(truth))
    (found,) = compare_slices(Threshold(0.5), Threshold(0.8), [item])
    modality, (same, *reference, dsc, _) = found
    assert modality == "CT" and reference == [1, 1]
    assert same == dsc == pytest.approx(2 / 3)


# ------------------------------------------------------------------ the command
@pytest.mark.usefixtures("traced_once")
def test_a_checkpoint_becomes_a_bundle(
    toy_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors", channels="perona_malik", filled=True)
    given = [str(model), "-o", str(tmp_path / "bundle"), "--precision", "fp32", "--shards", str(toy_shards)]
    assert graysam.export.main(given) == 0
    out = capsys.readouterr().out
    assert "macro" in out and f"{tmp_path / 'bundle'}: tiny, openvino fp32," in out
    bundle = read_exported(tmp_path / "bundle")
    said = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert type(bundle.scheme).__name__ == "PeronaMalik"
    assert said["parity"]["passed"] and said["parity"]["scores"]["macro"]["same"] > 0.999
    assert said["source"]["file"] == "tiny.safetensors" and said["calibration"] is None
    assert set(said["versions"]) >= {"graysam", "openvino", "torch"}

    # What falls short is not kept, and what was there stays.
    monkeypatch.setattr(pipeline, "SAME_DSC", 1.1)
    assert graysam.export.main(given) == 1
    captured = capsys.readouterr()
    assert "macro" in captured.out and captured.err.splitlines()[-1].startswith("error: not kept: ")
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text()) == said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "tiny.safetensors"]


def test_images_without_masks_calibrate_beside_training_slices(toy_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "fundus").mkdir(parents=True)
    half_white = np.zeros((64, 64), np.uint8)
    half_white[:, 32:] = 255
    for name in "ab":
        cv2.imwrite(str(tmp_path / "in" / "fundus" / f"{name}.png"), half_white)
    pack(ImageSource(folder=tmp_path / "in", size=256), tmp_path / "more", samples_per_shard=4, split=None)
    reader = ShardReader(toy_shards, tmp_path / "more")
    prepared: dict[str, Any] = {"scheme": load_scheme("replicate"), "size": 256}
    images = pipeline.read_calibration_images(reader, 4, **prepared)
    assert len(images) == 4 and all(image.shape == (3, 256, 256) for image in images)
    alike = [image[0, :, :120].max() < 0.1 and image[0, :, 136:].min() > 0.9 for image in images]
    assert 0 < sum(alike) < 4, "every group gives images: the new one, and the others"
    again = pipeline.read_calibration_images(reader, 4, **prepared)
    assert all(np.array_equal(one, other) for one, other in zip(images, again, strict=True))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("nothing.pth", "-o", "b"), "weight file nothing.pth does not exist"),
        (("m", "-o", "b", "--cases", "x"), "cases and gts are required together"),
        (("m", "-o", "b", "--interpolate-from", "x"), "--interpolate-from requires --format weights"),
        (("m", "-o", "b", "--format", "weights", "--shards", "x"), "leave out --shards, --cases and --channels"),
        (("m", "-o", "b", "--format", "onnx", "--precision", "int8"), "--precision int8 requires --format openvino"),
        (("m", "-o", "b", "--kind", "int8"), "--kind has been renamed; use --precision fp32|bf16|int8"),
        (("m", "-o", "b", "--calibration-images", "0"), "calibration_images is 0; required: at least 1"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    given: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = graysam.export.main(list(given))
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced_once")
def test_cases_with_masks_can_be_the_gate(tmp_path: Path, toy_shards: Path) -> None:
    model = save_tiny_model(tmp_path / "tiny.safetensors", filled=True)
    boxes = np.array(BOXES_2D)
    gts = np.zeros((128, 160), np.uint8)
    for label, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        gts[y0 : y1 + 1, x0 : x1 + 1] = label
    write_case(tmp_path / "imgs", "2DBox_US_a", imgs=image_2d(), boxes=boxes)
    write_case(tmp_path / "gts", "2DBox_US_a", gts=gts)
    folders = {"cases": tmp_path / "imgs", "gts": tmp_path / "gts"}
    bundle = pipeline.export_model(str(model), tmp_path / "b", precision="fp32", threads=1, **folders)
    assert bundle.description["parity"]["scores"]["US"]["n"] == 1
    assert bundle.description["parity"]["on"] == "cases"
