"""Quantization methods: what each really quantizes, that the masks stay the same, and what cannot run here."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graysam.exporting.methods import METHODS, Target, open_prepared
from graysam.imaging.presets import load_scheme
from graysam.metrics.challenge import binary_metrics
from graysam.models.cost import measure_cost
from graysam.models.registry import build_sam, model_config
from graysam.models.sam import Sam, inference_copy
from graysam.models.weights import load_whole, read_weights
from tests.support.commands import image_2d
from tests.support.fill import fill
from tests.support.shards import disc
from tests.support.tiny import tiny_numbers

HEADS = {**model_config("lite_medsam")["heads"], "dim": 32, "mlp_dim": 64, "num_heads": 2, "head_hidden": 32}
TINY_VIT = {
    "kind": "tiny_vit_sam",
    "embed_dims": [16, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 2],
    "window_sizes": [7, 7, 14, 7],
    "embedding_dim": 32,
}
TORCH_METHODS = ("none", "dynamic_qint8", "torchao_int8")
BOX = np.array([[60, 60, 140, 140]], np.float32)
SCHEME = load_scheme("replicate")
NO_TARGET = Target(Path("nowhere"), 256, SCHEME, lambda: pytest.fail("nothing to calibrate"))


def tiny_vit() -> Sam:
    torch.manual_seed(0)
    return build_sam(name="tiny_vit", encoder=TINY_VIT, heads=HEADS)


# ------------------------------------------------------------------ what is really quantized
@pytest.mark.parametrize(
    ("name", "encoder_layers", "encoder_weights"),
    [("efficientvit_sam_l0", [0, 69], 0), ("lite_medsam", [40, 69], 4_694_016)],
)
def test_dynamic_quantization_reaches_linear_layers_alone(
    name: str, encoder_layers: list[int], encoder_weights: int
) -> None:
    """None of L0's encoder, 40 layers of TinyViT's, 47 of the heads; MACs compared with torch's own counter."""
    model = build_sam(**model_config(name)).eval().requires_grad_(False)
    cost = measure_cost(model, 256)
    report = cost.quantized(METHODS["dynamic_qint8"].prepare(model, NO_TARGET).quantized_layers)
    assert report["layers"] == {"image_encoder": encoder_layers, "heads": [47, 52]}
    assert report["parameters"]["image_encoder"][0] == encoder_weights
    assert report["parameters"]["heads"] == [3_965_952, 4_064_560]

    operations: Counter[str] = Counter()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 256, 256), torch.from_numpy(BOX)[None])
    for operation, flops in counter.get_flop_counts()["Global"].items():
        operations[str(operation)] += flops // 2
    quantized = sum(hit for hit, _ in report["macs"].values())
    assert quantized == operations["aten.addmm"] + operations["aten.mm"]
    assert sum(layer.macs for layer in cost.layers.values()) - quantized == operations["aten.convolution"]
    assert sum(total for _, total in report["macs"].values()) == counter.get_total_flops() // 2


def test_torchao_reaches_the_same_layers() -> None:
    pytest.importorskip("torchao", reason="an optional package")
    model = tiny_vit()
    assert METHODS["torchao_int8"].why_unavailable() is None
    none, dynamic, torchao = (METHODS[name].prepare(model, NO_TARGET) for name in TORCH_METHODS)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert torchao.quantized_layers == dynamic.quantized_layers == linear
    assert max(torchao.saved_bytes, dynamic.saved_bytes) < none.saved_bytes


# A box prompt reaches 40 layers of the heads. Of L0's encoder, int8 takes stages 0 and 1 and the neck's 3x3.
@pytest.mark.parametrize(
    ("name", "encoder", "heads"),
    [
        ("openvino_bf16", {"tiny": [33, 33], "tiny_vit": [31, 31]}, 40),
        ("openvino_int8", {"tiny": [9, 33], "tiny_vit": [15, 31]}, 0),
        ("onnxruntime_dynamic", {"tiny": [0, 33], "tiny_vit": [12, 31]}, 40),
    ],
)
@pytest.mark.parametrize("architecture", ["tiny", pytest.param("tiny_vit", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("traced_once")
def test_engines_quantize_the_layers_that_they_name(
    name: str, encoder: dict[str, list[int]], heads: int, architecture: str, tmp_path: Path
) -> None:
    if METHODS[name].why_unavailable() is not None:
        pytest.skip("needs the extra quantize and a CPU with bfloat16")
    model = build_sam(**tiny_numbers()) if architecture == "tiny" else tiny_vit()
    model.load_state_dict({key: fill(key, tuple(value.shape)) for key, value in model.state_dict().items()})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    image = np.zeros((1, 3, 256, 256), np.float32)
    image[0, :, :128, :160] = image_2d() / 255
    target = Target(tmp_path / name, 256, SCHEME, lambda: [image[0]])
    prepared = METHODS[name].prepare(model, target)
    layers = measure_cost(model, 256).quantized(prepared.quantized_layers)["layers"]
    assert layers == {"image_encoder": encoder[architecture], "heads": [heads, 52]}
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    files = [file for file in target.folder.iterdir() if file.suffix != ".json"]
    assert prepared.saved_bytes == sum(file.stat().st_size for file in files)
    # The same masks as torch's, and again where another process opens them.
    backends = (
        prepared.backend,
        open_prepared(name, model, target.folder, 1),
        open_prepared("none", model, tmp_path, 1),
    )
    masks, again, expected = (b.decode(b.encode(image)[0], BOX)[0][0] > 0 for b in backends)
    assert binary_metrics(masks, again)[0] > 0.999
    if METHODS["openvino_bf16"].why_unavailable() is None:  # a CPU without VNNI saturates products of int8
        assert binary_metrics(expected, masks)[0] > 0.95


# ------------------------------------------------------------------ the same network
def test_every_torch_method_gives_lite_medsams_masks() -> None:
    model = build_sam(**model_config("lite_medsam"))
    load_whole(model, read_weights("lite_medsam"))
    image = np.zeros((3, 256, 256), np.float32)
    image[:, :128, :160] = image_2d() / 255
    boxes = np.array([[20, 30, 80, 90], [100, 50, 140, 90]], np.float32)
    masks = {}
    for name in TORCH_METHODS:
        if METHODS[name].why_unavailable() is None:
            backend = METHODS[name].prepare(model, NO_TARGET).backend
            masks[name] = backend.decode(backend.encode(image[None])[0], boxes)[0] > 0
    assert {"none", "dynamic_qint8"} <= masks.keys()
    for truth, mask in zip((disc(256, 60, 50, 30), disc(256, 70, 120, 20)), masks["none"], strict=True):
        assert binary_metrics(truth, mask)[0] > 0.95
    for name, found in masks.items():
        for one, other in zip(masks["none"], found, strict=True):
            assert binary_metrics(one, other)[0] > 0.98, name
    assert (masks["none"] != masks["dynamic_qint8"]).any(), "nothing was quantized"


@pytest.mark.parametrize("name", TORCH_METHODS)
def test_the_given_model_stays_as_it_is(name: str) -> None:
    if METHODS[name].why_unavailable() is not None:
        pytest.skip("cannot run here")
    model = tiny_vit().eval()
    image = torch.rand(1, 3, 256, 256)
    model(image, torch.from_numpy(BOX)[None])  # with gradients: TinyViT now caches biases that cannot be copied
    model.train()
    model.mask_decoder.eval()
    model.prompt_encoder.requires_grad_(False)

    def state() -> list[object]:
        modules = [(type(module), module.training) for module in model.modules()]
        return [*modules, *(parameter.requires_grad for parameter in model.parameters())]

    before, weights = state(), {key: value.clone() for key, value in model.state_dict().items()}
    backend = METHODS[name].prepare(model, NO_TARGET).backend
    backend.decode(backend.encode(image.numpy())[0], BOX)
    assert state() == before
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_attention_biases_are_not_older_than_the_weights() -> None:
    """TinyViT caches them in its first evaluation; later changes of the weights would not be seen."""
    model = tiny_vit().eval()
    image, boxes = torch.rand(1, 3, 256, 256), torch.from_numpy(BOX)[None]
    with torch.no_grad():
        inference_copy(model).encode(image)
        assert not any(getattr(module, "attention_bias_cache", None) for module in model.modules())
        model(image, boxes)
        for parameter_name, parameter in model.named_parameters():
            if "attention_biases" in parameter_name:
                parameter.add_(torch.randn_like(parameter))
    backend = METHODS["none"].prepare(model, NO_TARGET).backend
    fresh = tiny_vit()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = fresh.eval().encode(image).numpy()
    assert np.array_equal(backend.encode(image.numpy()), expected)


# ------------------------------------------------------------------ what cannot run here
@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("torchao_int8", "torchao"),
        ("openvino_int8", "nncf"),
        ("openvino_bf16", "openvino"),
        ("onnxruntime_dynamic", "onnxscript"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    assert METHODS[name].why_unavailable() == f"{package} is not installed: pip install '.[quantize]'"


def test_a_cpu_without_bfloat16_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda self, *arguments: ["FP32", "INT8"])
    reason = METHODS["openvino_bf16"].why_unavailable()
    assert reason == "this CPU has no instructions for bfloat16; OpenVINO would compute in float32"


def test_a_torch_without_dynamic_quantization_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    reason = METHODS["dynamic_qint8"].why_unavailable()
    assert reason is not None and "has no attribute 'quantize_dynamic'" in reason


def test_a_quantized_layer_that_does_not_run_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise NotImplementedError("no kernel\nfor this CPU")

    monkeypatch.setattr(torch.ao.quantization, "quantize_dynamic", broken)
    assert METHODS["dynamic_qint8"].why_unavailable() == "NotImplementedError: no kernel for this CPU"
