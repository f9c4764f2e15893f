"""After training: quantization methods compared on the best checkpoint, with the same boxes, once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from graysam.config.targets import build
from graysam.data.dataset import FixedSlices, Item
from graysam.data.sampling import choose
from graysam.data.shards import ShardReader
from graysam.exporting.methods import METHODS, PreparedModel, QuantizationMethod
from graysam.imaging.channels import load_scheme
from graysam.inference.backend import BOX_BATCH
from graysam.training import quantization
from graysam.training.quantization import COLUMNS, QuantizationComparison, Settings, compare_methods, rows, score, text
from graysam.training.scores import Scores
from tests.support.commands import save_tiny_model
from tests.support.config import compose_plain
from tests.support.exported_models import Spy
from tests.support.tiny import overrides
from tests.support.training import build_data, build_module, build_trainer

REASON = "torchao is not installed: pip install '.[quantize]'"
UNAVAILABLE = QuantizationMethod(lambda: REASON, lambda model, target: pytest.fail("unavailable"))


def settings(*methods: Any, **changes: Any) -> Settings:
    numbers: dict[str, Any] = {"threads": 1, "repeats": 2, "warmup": 1, "timing_images": 1, "calibration_images": 2}
    return Settings(methods=list(methods), **({"max_images": None} | numbers | changes))


@pytest.mark.parametrize(("name", "value", "least"), [("max_images", 0, 1), ("warmup", -1, 0)])
def test_bad_settings_are_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"quantize\.{name} is {value}; required: at least {least}"):
        settings("none", **{name: value})


# ------------------------------------------------------------------ accuracy and the images it is measured on
def test_every_method_gets_the_same_boxes_and_every_box_is_scored() -> None:
    count = 2 * BOX_BATCH + 1
    boxes = torch.arange(4 * count).reshape(count, 4).float()
    masks = torch.zeros(count, 256, 256, dtype=torch.bool)
    item = Item("key", "CT_a", "CT", torch.zeros(3, 256, 256), boxes, masks)
    recorders = {name: Spy() for name in ("a", "b")}
    scores = {name: Scores() for name in recorders}
    score({name: PreparedModel(recorder, frozenset(), 0) for name, recorder in recorders.items()}, item, scores)
    for name, recorder in recorders.items():
        assert np.array_equal(recorder.boxes, boxes.numpy())
        assert [s.prompt for s in scores[name]] == list(range(count))


def test_chosen_images_are_round_robin_over_groups_and_spread_within_them() -> None:
    groups = np.array(["CT"] * 9 + ["US"] + ["MR"] * 3)
    assert choose(groups, None) == choose(groups, 13) == list(range(13))
    assert choose(groups, 3) == [0, 9, 10]
    assert choose(groups, 7) == [0, 4, 8, 9, 10, 11, 12]
    assert choose(groups, 8) == [0, 3, 5, 8, 9, 10, 11, 12]


# ------------------------------------------------------------------ the callback
def test_a_run_ends_with_its_best_checkpoint_under_every_method(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, "torchao_int8", UNAVAILABLE)
    run_dir = tmp_path / "run"
    methods = ["none", "dynamic_qint8", "torchao_int8"]
    changes = (f"quantize.methods=[{','.join(methods)}]", "quantize.threads=1", "quantize.repeats=1")
    config = compose_plain("train", [*overrides(toy_shards, run_dir), "quantize=default", *changes])
    data = build_data(config)
    module, trainer = build_module(config, data=data), build_trainer(config)
    trainer.fit(module, datamodule=data)

    report = json.loads((run_dir / "quantization.json").read_text())
    assert list(report["methods"]) == methods
    assert report["methods"]["torchao_int8"] == {"available": False, "reason": REASON}
    assert (report["threads"], report["images"], report["objects"]) == (1, 3, 5)
    trainer.validate(module, datamodule=data, verbose=False)
    none, dynamic = (report["methods"][name] for name in ("none", "dynamic_qint8"))
    for name, means in module.scores.summary().items():
        assert none["scores"][name]["n"] == dynamic["scores"][name]["n"] == means["n"]
        assert none["scores"][name]["dsc"] == pytest.approx(means["dsc"], abs=1e-3)
        assert dynamic["scores"][name]["dsc"] == pytest.approx(means["dsc"], abs=0.05)
    assert none["quantized"]["layers"] == {"image_encoder": [0, 33], "heads": [0, 52]}
    assert dynamic["quantized"]["layers"] == {"image_encoder": [0, 33], "heads": [47, 52]}
    assert none["size_mb"] > dynamic["size_mb"] > 1
    for spread in (method[time] for method in (none, dynamic) for time in ("encoder_ms", "decoder_ms", "image_ms")):
        assert spread["n"] == 3 and 0 < spread["min"] <= spread["median"] <= spread["max"]

    printed = capsys.readouterr().out
    assert f"torchao_int8 is unavailable: {REASON}" in printed
    assert printed.count("47/52") == 1
    metrics = (next((run_dir / "metrics").glob("*/metrics.csv"))).read_text()
    assert "quantization/dynamic_qint8/image_ms" in metrics.splitlines()[0]
    table = (run_dir / "tables" / "quantization.csv").read_text().splitlines()
    assert table[0].split(",")[1:] == list(COLUMNS)
    assert [line.split(",")[1] for line in table[1:]] == methods

    # The same command once more, after a kill say: nothing is measured again, everything is reported again.
    callback: QuantizationComparison = build(config["callbacks"]["quantization"])
    stored = callback.stored()
    assert stored is not None and not callback.is_due()
    monkeypatch.setattr(quantization, "compare_methods", lambda *_: pytest.fail("measured twice"))
    callback.on_fit_end(trainer, module)
    assert "47/52" in capsys.readouterr().out
    monkeypatch.setattr(quantization, "compare_methods", lambda *_: replace(stored, images=77))
    callback.settings = settings(*methods)
    callback.on_fit_end(trainer, module)
    assert "DSC and NSD: 77 images" in capsys.readouterr().out


def test_no_methods_means_nothing(tmp_path: Path) -> None:
    callback = QuantizationComparison(run_dir=tmp_path, settings=settings())
    callback.on_fit_end(lightning.Trainer(accelerator="cpu", logger=False), lightning.LightningModule())
    assert not list(tmp_path.iterdir())


def test_methods_that_cannot_run_have_their_reasons(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: Any, target: Any) -> PreparedModel:
        assert len(target.calibration_images()) == 2
        raise RuntimeError("no kernel\nfor this model")

    monkeypatch.setitem(METHODS, "torchao_int8", UNAVAILABLE)
    monkeypatch.setitem(METHODS, "openvino_int8", QuantizationMethod(lambda: None, fail))
    reader, scheme = ShardReader(toy_shards), load_scheme("replicate")
    slices = FixedSlices(reader, reader.rows(split="val"), scheme=scheme, size=256, max_boxes_per_image=None)
    checkpoint = save_tiny_model(tmp_path / "tiny.ckpt")
    report = compare_methods(checkpoint, slices, settings("torchao_int8", "openvino_int8"))
    failed = "failed on this model: no kernel for this model"
    lines = [f"torchao_int8 is unavailable: {REASON}", f"openvino_int8 is unavailable: {failed}"]
    assert text(report).splitlines()[-2:] == lines
    assert rows(report)[0] == {"method": "torchao_int8", "why_unavailable": REASON}
