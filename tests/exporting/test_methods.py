"""Quantization methods: what each really quantizes, that the masks stay the same, and what cannot run here."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graysam.exporting.methods import METHODS, Target, open_prepared
from graysam.imaging.channels import load_scheme
from graysam.metrics.challenge import binary_metrics
from graysam.models.cost import measure_cost
from graysam.models.registry import EncoderNumbers, build_model
from graysam.models.sam import Sam, inference_copy
from tests.support.commands import image_2d
from tests.support.fill import fill
from tests.support.tiny import ENCODER, HEADS

TORCH_METHODS = ("none", "dynamic_qint8", "torchao_int8")
BOX = np.array([[60, 60, 140, 140]], np.float32)


def tiny_l0() -> Sam:
    torch.manual_seed(0)
    return build_model("efficientvit_sam_l0", encoder=ENCODER, heads=HEADS)


def tiny_vit() -> Sam:
    torch.manual_seed(0)
    numbers = EncoderNumbers(embed_dims=[16, 16, 16, 32], depths=[1] * 4, num_heads=[1, 1, 1, 2], embedding_dim=32)
    return build_model("lite_medsam", encoder=numbers, heads=HEADS)


def tiny_s() -> Sam:
    torch.manual_seed(0)
    numbers = EncoderNumbers(backbone="regnety_002", width=32, depth=1, embedding_dim=32)
    return build_model("graysam_s", encoder=numbers, heads=HEADS)


def filled(model: Sam) -> Sam:
    model.load_state_dict({key: fill(key, tuple(value.shape)) for key, value in model.state_dict().items()})
    return model


def image() -> np.ndarray:
    stack = np.zeros((1, 3, 256, 256), np.float32)
    stack[0, :, :128, :160] = image_2d() / 255
    return stack


def segment(backend: Any, given: np.ndarray) -> np.ndarray:
    return backend.decode(backend.encode(given)[0], BOX)[0][0] > 0


# ------------------------------------------------------------------ what is really quantized
@pytest.mark.parametrize(
    ("build", "encoder_layers"), [(tiny_l0, [0, 33]), (tiny_vit, [12, 31])], ids=["tiny_l0", "tiny_vit"]
)
def test_dynamic_quantization_reaches_linear_layers_alone(build: Any, encoder_layers: list[int]) -> None:
    """None of L0's encoder, some of TinyViT's, 47 of the heads; MACs compared with torch's own counter."""
    model = build().eval().requires_grad_(False)
    cost = measure_cost(model, 256)
    report = cost.quantized(METHODS["dynamic_qint8"].prepare(model, None).quantized_layers)
    assert report["layers"] == {"image_encoder": encoder_layers, "heads": [47, 52]}

    operations: Counter[str] = Counter()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 256, 256), torch.from_numpy(BOX)[None])
    for operation, flops in counter.get_flop_counts()["Global"].items():
        operations[str(operation)] += flops // 2
    quantized = sum(hit for hit, _ in report["macs"].values())
    assert quantized == operations["aten.addmm"] + operations["aten.mm"]
    assert sum(layer.macs for layer in cost.layers.values()) - quantized == operations["aten.convolution"]
    assert sum(total for _, total in report["macs"].values()) == counter.get_total_flops() // 2


def test_torch_methods_quantize_linear_layers_and_keep_the_masks() -> None:
    model = filled(tiny_vit())
    expected = METHODS["none"].prepare(model, None)
    masks = segment(expected.backend, image())
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for name in TORCH_METHODS[1:]:
        if METHODS[name].why_unavailable() is None:
            prepared = METHODS[name].prepare(model, None)
            assert prepared.quantized_layers == linear
            assert prepared.saved_bytes < expected.saved_bytes
            assert binary_metrics(masks, segment(prepared.backend, image()))[0] > 0.95


# A box prompt reaches 40 layers of the heads. Of L0's encoder, int8 takes stages 0 and 1 and the neck's 3x3.
@pytest.mark.parametrize(
    ("name", "encoder", "heads"),
    [
        ("openvino_bf16", {"tiny_l0": [33, 33], "tiny_vit": [31, 31]}, 40),
        ("openvino_int8", {"tiny_l0": [9, 33], "tiny_vit": [15, 31]}, 0),
        ("onnxruntime_dynamic", {"tiny_l0": [0, 33], "tiny_vit": [12, 31]}, 40),
    ],
)
@pytest.mark.parametrize("build", [tiny_l0, pytest.param(tiny_vit, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("traced_once")
def test_engines_quantize_the_layers_that_they_name(
    name: str, encoder: dict[str, list[int]], heads: int, build: Any, tmp_path: Path
) -> None:
    if METHODS[name].why_unavailable() is not None:
        pytest.skip("needs the extra quantize and a CPU with bfloat16")
    model = filled(build())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    target = Target(tmp_path / name, load_scheme("replicate"), lambda: [image()[0]])
    prepared = METHODS[name].prepare(model, target)
    layers = measure_cost(model, 256).quantized(prepared.quantized_layers)["layers"]
    assert layers == {"image_encoder": encoder[build.__name__], "heads": [heads, 52]}
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    files = [file for file in target.folder.iterdir() if file.suffix != ".json"]
    assert prepared.saved_bytes == sum(file.stat().st_size for file in files)
    # The same masks as torch's, and again where another process opens them.
    again, torchs = open_prepared(name, model, target.folder, 1), open_prepared("none", model, tmp_path, 1)
    masks = segment(prepared.backend, image())
    assert binary_metrics(masks, segment(again, image()))[0] > 0.999
    if METHODS["openvino_bf16"].why_unavailable() is None:  # a CPU without VNNI saturates products of int8
        assert binary_metrics(segment(torchs, image()), masks)[0] > 0.95


# ------------------------------------------------------------------ the same network
@pytest.mark.parametrize("name", TORCH_METHODS)
def test_the_given_model_stays_as_it_is(name: str) -> None:
    if METHODS[name].why_unavailable() is not None:
        pytest.skip("cannot run here")
    model = tiny_vit().eval()
    images = torch.rand(1, 3, 256, 256)
    model(images, torch.from_numpy(BOX)[None])  # with gradients: TinyViT now caches biases that cannot be copied
    model.train()
    model.mask_decoder.eval()
    model.prompt_encoder.requires_grad_(False)

    def state() -> list[object]:
        modules = [(type(module), module.training) for module in model.modules()]
        return [*modules, *(parameter.requires_grad for parameter in model.parameters())]

    before, weights = state(), {key: value.clone() for key, value in model.state_dict().items()}
    segment(METHODS[name].prepare(model, None).backend, images.numpy())
    assert state() == before
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_attention_biases_are_not_older_than_the_weights() -> None:
    """TinyViT caches them in its first evaluation; later changes of the weights would not be seen."""
    model = tiny_vit().eval()
    images = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        inference_copy(model).encode(images)
        assert not any(getattr(module, "attention_bias_cache", None) for module in model.modules())
        model.encode(images)
        for parameter_name, parameter in model.named_parameters():
            if "attention_biases" in parameter_name:
                parameter.add_(torch.randn_like(parameter))
        fresh = tiny_vit()
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(inference_copy(model).encode(images), fresh.eval().encode(images))


# ------------------------------------------------------------------ what cannot run here
@pytest.mark.parametrize(
    ("name", "package"),
    [("torchao_int8", "torchao"), ("openvino_int8", "nncf"), ("onnxruntime_dynamic", "onnxscript")],
)
def test_a_missing_package_is_named_with_the_remedy(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    assert METHODS[name].why_unavailable() == f"not installed: {package}; pip install '.[quantize]'"


def test_a_cpu_without_bfloat16_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda self, *arguments: ["FP32", "INT8"])
    reason = METHODS["openvino_bf16"].why_unavailable()
    assert reason == "this CPU has no bfloat16; OpenVINO would compute in float32"


def test_a_torch_without_dynamic_quantization_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise NotImplementedError("no kernel\nfor this CPU")

    monkeypatch.setattr(torch.ao.quantization, "quantize_dynamic", broken)
    assert METHODS["dynamic_qint8"].why_unavailable() == "NotImplementedError: no kernel for this CPU"
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    reason = METHODS["dynamic_qint8"].why_unavailable()
    assert reason is not None and "has no attribute 'quantize_dynamic'" in reason
