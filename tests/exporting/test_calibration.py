"""Quantization of image encoders: what computes in int8, what stays as it is, and that the embedding stays the same."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from graysam.exporting.conversion import convert
from graysam.inference.openvino_core import has_bf16, open_core
from graysam.models.registry import build_sam, model_config
from graysam.models.sam import Sam
from tests.exporting.test_methods import HEADS, tiny_vit

calibration = pytest.importorskip("graysam.exporting.calibration", reason="an extra", exc_type=ImportError)

Float32 = NDArray[np.float32]
TINY_L0 = {
    **model_config("efficientvit_sam_l0")["encoder"],
    "widths": [8, 16, 32, 32, 64],
    "depths": [1, 1, 1, 1, 1],
    "neck_depth": 1,
    "embedding_dim": 32,
}
KEPT_COUNT = {"tiny_l0": 24, "tiny_vit": 16}
LAYERS_KEPT = {
    "tiny_l0": r"neck\.head|backbone\.(stem|stages\.[23])|laterals|neck\.blocks\.\d\.main\.point_conv",
    "tiny_vit": r"patch_embed|stages\.0\.|stages\.1\.downsample\.conv1|stages\.3\.downsample\.conv3"
    r"|downsample\.conv2|local_conv|neck\.0$|stages\.3\.blocks\.0\.mlp",
}


def tiny_l0() -> Sam:
    torch.manual_seed(0)
    return build_sam(name="tiny_l0", encoder=TINY_L0, heads=HEADS)


def encoder_of(build: Callable[[], Sam]) -> Any:
    """Return a graph whose batch norms do something, as trained ones do: conversion drops a sum with zero."""
    model = build()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return convert(model, 256, half_precision=False)["encoder"]


def images(count: int) -> list[Float32]:
    rng = np.random.default_rng(0)
    coarse = rng.random((count, 3, 16, 16), dtype=np.float32)
    return list(coarse.repeat(16, axis=2).repeat(16, axis=3))


def embed(encoder: Any, image: Float32, precision: str) -> Float32:
    import openvino

    compiled = openvino.Core().compile_model(encoder, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return np.array(compiled(image[None])[0], np.float32)


def layers(encoder: Any) -> set[str]:
    """Return the paths of the convolutions and linear layers of an unquantized graph."""
    nodes = [node for node in encoder.get_ordered_ops() if node.get_type_name() in calibration.PRODUCTS]
    return {calibration._path(node) for node in nodes if calibration._weights(node) is not None}


@pytest.mark.parametrize("build", [tiny_l0, tiny_vit], ids=lambda build: build.__name__)
def test_int8_takes_the_layers_it_should_and_keeps_the_embedding(build: Callable[[], Sam]) -> None:
    encoder = encoder_of(build)
    before = [(node.get_friendly_name(), node.get_type_name()) for node in encoder.get_ordered_ops()]
    quantized = calibration.quantize_encoder(encoder, images(1))
    assert before == [(node.get_friendly_name(), node.get_type_name()) for node in encoder.get_ordered_ops()]
    assert not calibration.quantized_layers(encoder)

    paths = layers(encoder)
    kept = {path for path in paths if re.search(LAYERS_KEPT[build.__name__], path)}
    assert len(kept) == KEPT_COUNT[build.__name__]
    assert calibration.quantized_layers(quantized) == paths - kept

    for node in quantized.get_ordered_ops():
        if node.get_type_name() in ("Add", "MVN", "ScaledDotProductAttention", "Softmax"):
            sources = [port.get_source_output().get_node().get_type_name() for port in node.inputs()]
            assert "FakeQuantize" not in sources, node.get_friendly_name()

    image = images(4)[3]
    exact, rough = embed(encoder, image, "f32"), embed(quantized, image, "f32")
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert error > 1e-4  # something is quantized
    if has_bf16(open_core()):  # a CPU without VNNI saturates products of int8
        assert error < 0.03


def test_calibration_needs_images() -> None:
    from openvino import Model
    from openvino import opset13 as op

    given = op.parameter([1, 3, 4, 4], np.float32)
    with pytest.raises(ValueError, match="at least one is required"):
        calibration.quantize_encoder(Model([given], [given]), [])
