"""`python -m graysam.predict` with weight files and checkpoints: as they were trained, and exported on the way."""

import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from graysam.imaging.channels import Paper, load_scheme
from graysam.inference.openvino_core import CONVERTER
from graysam.inference.predictor import Predictor
from graysam.predict import main
from tests.support.commands import BOXES_2D, image_2d, names, save_tiny_model, segs, write_case
from tests.support.exported_models import write_tiny_exported
from tests.support.fill import official_state


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny checkpoint of graysam, trained on nothing, that carries the scheme `paper`."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "best.ckpt", "paper")


def folders(tmp_path: Path) -> list[str]:
    return ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]


def predict(tmp_path: Path, *more: str, model: str | Path = "lite_medsam") -> int:
    """Run the command from tmp_path/in to tmp_path/out."""
    return main([*folders(tmp_path), "--model", str(model), "--backend", "torch", *more])


@pytest.mark.slow
def test_lite_medsam_is_verified_and_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path / "in", "2DBox_US_1", imgs=np.dstack([image_2d()] * 3), boxes=BOXES_2D)
    assert predict(tmp_path, "--overlay", str(tmp_path / "pictures")) == 0
    captured = capsys.readouterr()
    assert "verified as LiteMedSAM" in captured.out
    assert "1 of 1 cases in " in captured.out
    assert names(tmp_path / "pictures") == ["2DBox_US_1.png"]
    found = segs(tmp_path, "2DBox_US_1")
    rows, columns = np.ogrid[:128, :160]
    first = (rows - 60) ** 2 + (columns - 50) ** 2 <= 30**2
    second = (rows - 70) ** 2 + (columns - 120) ** 2 <= 20**2
    for label, truth in ((1, first), (2, second)):
        assert 2 * ((found == label) & truth).sum() / ((found == label).sum() + truth.sum()) > 0.9


def test_an_official_efficientvit_file_needs_channels(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "l0.pt"
    torch.save({"model": official_state(goldens, "efficientvit_sam_l0")}, path)
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=np.zeros((0, 4)))
    assert predict(tmp_path, model=path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path} does not say which channels" in error
    assert "--channels paper|perona_malik|released|replicate" in error
    assert names(tmp_path / "out") == []
    assert predict(tmp_path, "--channels", "released", model=path) == 0
    assert "unverified" in capsys.readouterr().out
    assert not segs(tmp_path, "2DBox_US_1").any()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_our_files_carry_model_and_channels(tmp_path: Path, suffix: str) -> None:
    model = save_tiny_model(tmp_path / f"m{suffix}", "paper")
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    assert predict(tmp_path, model=model) == 0
    predictor = Predictor(model)
    assert Predictor(model, channels="replicate").scheme == load_scheme("replicate")
    assert isinstance(predictor.scheme, Paper)
    assert (predictor.size, predictor.precision) == (256, "fp32")
    assert np.array_equal(segs(tmp_path, "2DBox_US_1"), predictor.predict(image_2d(), BOXES_2D))
    masks = predictor.predict_masks(image_2d(), BOXES_2D)
    assert np.array_equal(np.where(masks[1].mask, 2, masks[0].mask), segs(tmp_path, "2DBox_US_1"))


def test_options_run_on_a_volume(tmp_path: Path, tiny: Path, threads: None) -> None:
    boxes = np.array([[20, 30, 0, 80, 90, 2], [100, 50, 1, 140, 90, 3]])
    write_case(tmp_path / "in", "3DBox_CT_1", imgs=np.stack([image_2d()] * 4), boxes=boxes)
    options = ("--propagation", "litemedsam", "--precision", "bf16", "--z-max", "exclusive", "--threads", "1")
    assert predict(tmp_path, *options, model=tiny) == 0
    found = segs(tmp_path, "3DBox_CT_1")
    assert found.shape == (4, 128, 160)
    assert set(np.unique(found)) <= {0, 1, 2}
    assert torch.get_num_threads() == cv2.getNumThreads() == 1


@pytest.mark.usefixtures("user_cache")
def test_a_weight_file_is_exported_once(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How well it then segments is test_export.py's; here a bundle made by hand stands for it."""
    calls: list[tuple[Any, ...]] = []

    def export_model(model: str, folder: Path, **options: Any) -> None:
        assert sys.modules.get(CONVERTER, "to be imported") is not None
        calls.append((model, options))
        write_tiny_exported(folder, kind=options["precision"])

    monkeypatch.setattr("graysam.exporting.pipeline.export_model", export_model)
    monkeypatch.setitem(sys.modules, CONVERTER, None)  # as in a process of predict's own
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    for options in (("--precision", "int8"), ("--backend", "openvino"), ("--backend", "openvino", "--threads", "2")):
        assert main([*folders(tmp_path), "--model", str(tiny), *options]) == 0
        captured = capsys.readouterr().out
        assert ("is exported as int8, once, into" in captured) == (options[0] == "--precision")
        assert "tiny int8 from " in captured
    assert calls == [(str(tiny), {"precision": "int8", "channels": None, "threads": None})]
    copy = shutil.copy(tiny, tmp_path / "renamed.ckpt")
    assert main([*folders(tmp_path), "--model", str(copy), "--precision", "fp32", "--backend", "openvino"]) == 0
    assert len(calls) == 2


@pytest.mark.usefixtures("user_cache")
def test_an_export_that_segments_worse_is_one_line(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graysam.exporting.pipeline import BelowGate

    def export_model(*_: Any, **__: Any) -> None:
        raise BelowGate(["macro DSC is 2 points below torch's"], "table")

    monkeypatch.setattr("graysam.exporting.pipeline.export_model", export_model)
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    assert main([*folders(tmp_path), "--model", str(tiny), "--precision", "int8"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "segments too much worse as int8 than in torch (macro DSC is 2 points below torch's)" in error


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    write_case(tmp_path / "in", "a", imgs=image_2d(), boxes=BOXES_2D)
    assert predict(tmp_path, "--device", device, model=tiny) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: device {device} cannot be used")
    assert names(tmp_path) == ["in"]
