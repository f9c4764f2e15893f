"""Kinds of other engines than torch: prepared, stored, opened again, and what they really quantize."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from graysam.data.shards import ShardIndex
from graysam.exporting.accounting import account_for
from graysam.exporting.methods import KINDS, restore
from graysam.exporting.tracing import trace_layers
from graysam.metrics.challenge import binary_metrics
from graysam.models.sam import Sam
from graysam.training import quantization as benchmarking
from graysam.training.quantization import benchmark
from tests.exporting.test_quantize import NOWHERE, settings, slices, tiny_vit
from tests.support.commands import save_tiny_model

ENGINES = ("openvino_bf16", "openvino_int8", "onnxruntime_dynamic")
needs_engines = pytest.mark.skipif(
    any(KINDS[name].why_unavailable() for name in ENGINES), reason="needs the extra quantize and a CPU with bfloat16"
)


# ------------------------------------------------------------------ end to end
@needs_engines
@pytest.mark.usefixtures("traced_once")
def test_kinds_are_prepared_stored_and_opened_again(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_tiny_model(tmp_path / "tiny.ckpt", filled=True)
    items = slices(toy_shards)
    image, boxes = items[0].image.numpy()[None], items[0].boxes.numpy()
    masks: dict[str, dict[str, np.ndarray]] = {"prepared": {}, "reopened": {}}
    stored_bytes: dict[str, int] = {}
    calibrated: list[int] = []
    score, time_methods, read = benchmarking.score, benchmarking.time_methods, benchmarking.FixedSlices

    def scoring(prepared: Any, *arguments: Any) -> None:
        for name, network in prepared.items():
            masks["prepared"][name] = network.backend.decode(network.backend.encode(image)[0], boxes)[0] > 0
        score(prepared, *arguments)

    def timing(checkpoint: Path, kinds: Any, prompts: Any, *, stored: Path, **counts: Any) -> Any:
        for name in ENGINES:  # as the process that takes the times does it
            graphs = [file for file in (stored / name).iterdir() if file.suffix != ".json"]
            stored_bytes[name] = sum(file.stat().st_size for file in graphs)
            backend = KINDS[name].reopen(restore(checkpoint).model, stored / name, 1)
            masks["reopened"][name] = backend.decode(backend.encode(image)[0], boxes)[0] > 0
        return time_methods(checkpoint, kinds, prompts, stored=stored, **counts)

    def reading(reader: Any, rows: Any, **options: Any) -> Any:
        calibrated.extend(rows.tolist())
        return read(reader, rows, **options)

    monkeypatch.setattr(benchmarking, "score", scoring)
    monkeypatch.setattr(benchmarking, "time_methods", timing)
    monkeypatch.setattr(benchmarking, "FixedSlices", reading)
    report = benchmark(checkpoint, items, settings("none", *ENGINES, repeats=1, warmup=0, max_images=1))

    kinds = report["kinds"]
    assert [kind["available"] for kind in kinds.values()] == [True] * 4, kinds
    for name in ENGINES:
        for mask, again, truth in zip(*(masks[way][name] for way in masks), masks["prepared"]["none"], strict=True):
            assert binary_metrics(mask, again)[0] > 0.999, name
            assert binary_metrics(truth, mask)[0] > 0.95, name
        assert kinds[name]["image_ms"]["n"] == 1
        assert 0 < kinds[name]["encoder_ms"]["median"] < kinds[name]["image_ms"]["median"]
        assert kinds[name]["size_mb"] == stored_bytes[name] / 1e6
    # What a box prompt reaches has 33 layers in the encoder, 9 of them in int8, and 40 in the heads.
    layers = {name: kind["quantized"]["layers"] for name, kind in kinds.items()}
    assert layers["openvino_bf16"] == {"image_encoder": [33, 33], "heads": [40, 52]}
    assert layers["openvino_int8"] == {"image_encoder": [9, 33], "heads": [0, 52]}
    assert layers["onnxruntime_dynamic"] == {"image_encoder": [0, 33], "heads": [40, 52]}
    index = ShardIndex.load(toy_shards)
    assert len(calibrated) == 2
    assert set(calibrated) <= set(index.rows(split="train").tolist()), "calibrated once, and on training images"


@needs_engines
@pytest.mark.slow
@pytest.mark.parametrize(("name", "encoder_layers"), [("openvino_bf16", 31), ("onnxruntime_dynamic", 12)])
def test_every_linear_layer_of_tiny_vit_is_named(name: str, encoder_layers: int, tmp_path: Path) -> None:
    model = tiny_vit()
    place = type(NOWHERE)(tmp_path / "kind", 256, NOWHERE.scheme, NOWHERE.calibration_images)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = account_for(model, 256).of(KINDS[name].prepare(model, place).quantized_layers)["layers"]
    assert layers == {"image_encoder": [encoder_layers, 31], "heads": [40, 52]}
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


# ------------------------------------------------------------------ whose weights they are
@pytest.fixture(scope="module")
def model() -> Sam:
    return tiny_vit()


def weights_of(model: Sam, name: str) -> np.ndarray:
    return model.get_parameter(f"{name}.weight").detach().numpy()


def test_layers_are_told_by_the_direction_of_their_weights(model: Sam) -> None:
    linear, convolution = "mask_decoder.transformer.layers.0.self_attn.q_proj", "image_encoder.neck.2"
    rows = weights_of(model, convolution)
    scales = np.random.default_rng(0).normal(size=(len(rows), 1, 1, 1))
    scales[3] = 0  # as a batch norm may have it
    products = {
        "fixed": np.eye(32, dtype=np.float32),
        "turned": weights_of(model, linear).T.astype(np.float16),
        "folded": rows * scales,
        "again": rows,
        "altered": weights_of(model, "mask_decoder.transformer.layers.1.self_attn.q_proj") + 0.05 * np.eye(32),
    }
    assert trace_layers(model, products) == {
        "fixed": None,
        "turned": linear,
        "folded": convolution,
        "again": None,
        "altered": None,
    }


# ------------------------------------------------------------------ what cannot run here
@pytest.mark.parametrize(
    ("kind", "package"),
    [("openvino_int8", "nncf"), ("onnxruntime_dynamic", "onnxscript"), ("openvino_bf16", "openvino")],
)
def test_without_its_package_a_kind_names_the_remedy(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    reason = KINDS[kind].why_unavailable()
    assert reason == f"{package} is not installed: pip install '.[quantize]'"


def test_a_cpu_without_bfloat16_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda self, *arguments: ["FP32", "INT8"])
    reason = KINDS["openvino_bf16"].why_unavailable()
    assert reason == "this CPU has no instructions for bfloat16; OpenVINO would compute in float32"


def test_a_kind_that_cannot_be_reopened_says_which_file(tmp_path: Path, model: Sam) -> None:
    for name in ENGINES:
        with pytest.raises(ValueError, match=f"{name} is no folder"):
            KINDS[name].reopen(model, tmp_path / name, 1)
