"""Quantization of image encoders: what computes in int8, what stays as it is, and that the embedding stays the same."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from graysam.exporting.conversion import convert
from graysam.exporting.graphs import graph_layers
from graysam.inference.openvino_core import has_bf16, open_core
from graysam.models.sam import Sam
from tests.exporting.test_methods import tiny_l0, tiny_s, tiny_vit

calibration = pytest.importorskip("graysam.exporting.int8", reason="an extra", exc_type=ImportError)

import openvino as ov  # noqa: E402
import openvino.opset13 as op  # noqa: E402

Float32 = NDArray[np.float32]
KEPT_COUNT = {"tiny_l0": 24, "tiny_vit": 16, "tiny_s": 0}
LAYERS_KEPT = {
    "tiny_l0": r"neck\.head|backbone\.(stem|stages\.[23])|laterals|neck\.blocks\.\d\.main\.point_conv",
    "tiny_vit": r"patch_embed|stages\.0\.|stages\.1\.downsample\.conv1|stages\.3\.downsample\.conv3"
    r"|downsample\.conv2|local_conv|neck\.0$|stages\.3\.blocks\.0\.mlp",
    "tiny_s": "^$",  # squeeze-and-excitation too
}


def trained(build: Callable[[], Sam]) -> Sam:
    """Return a model whose batch norms do something, as trained ones do: conversion drops a sum with zero."""
    model = build()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def run(graph: ov.Model, given: Float32) -> Float32:
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(given)[0], np.float32)


def names(graph: ov.Model) -> list[str]:
    return [node.get_friendly_name() for node in graph.get_ordered_ops()]


@pytest.mark.parametrize("build", [tiny_l0, tiny_vit, tiny_s], ids=lambda build: build.__name__)
def test_int8_takes_the_layers_it_should_and_keeps_the_embedding(build: Callable[[], Sam]) -> None:
    model = trained(build)
    encoder = convert(model, half_precision=False)["encoder"]
    before = names(encoder)
    images = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32).repeat(16, axis=2).repeat(16, axis=3)
    quantized = calibration.quantize_encoder(encoder, [images[0]])
    assert before == names(encoder)
    assert not calibration.quantized_layers(encoder, model)

    layers = {name for name in graph_layers(model) if name.startswith("image_encoder")}
    kept = {name for name in layers if re.search(LAYERS_KEPT[build.__name__], name)}
    assert len(kept) == KEPT_COUNT[build.__name__]
    assert calibration.quantized_layers(quantized, model) == layers - kept

    if build is tiny_s:  # sums of bounded maps are in int8 as well
        assert not any(node.get_type_name() == "FakeQuantize" for node in encoder.get_ordered_ops())
    for node in [] if build is tiny_s else quantized.get_ordered_ops():
        if node.get_type_name() in ("Add", "MVN", "ScaledDotProductAttention", "Softmax"):
            sources = [port.get_source_output().get_node().get_type_name() for port in node.inputs()]
            assert "FakeQuantize" not in sources, node.get_friendly_name()

    exact, rough = run(encoder, images[3:]), run(quantized, images[3:])
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert error > 1e-4  # something is quantized
    if has_bf16(open_core()):  # a CPU without VNNI saturates products of int8
        assert error < 0.03


def test_calibration_needs_images() -> None:
    with pytest.raises(ValueError, match="at least one is required"):
        calibration.quantize_encoder(mlp(True), [])


# ------------------------------------------------------------------ lifted GELUs
def mlp(transposed: bool) -> ov.Model:
    """Return GELU(x W1 + b1) W2 + b2, with W2 stored either way."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 5)))
    given = op.parameter([1, 7, 6], np.float32)
    hidden = op.gelu(op.add(op.matmul(given, op.constant(first), False, False), op.constant(first[0, :1])), "ERF")
    kernel = op.constant(np.ascontiguousarray(second.T) if transposed else second)
    return ov.Model([op.add(op.matmul(hidden, kernel, False, transposed), op.constant(second[0]))], [given])


def convolutions(read_twice: bool) -> ov.Model:
    """Return a 1x1 convolution of a GELU, with something else reading the GELU too if asked for."""
    rng = np.random.default_rng(1)
    given = op.parameter([1, 4, 3, 3], np.float32)
    gelu = op.gelu(given, "ERF")
    kernel = op.constant(rng.normal(size=(4, 4, 1, 1)).astype(np.float32))
    bias = op.constant(rng.normal(size=(1, 4, 1, 1)).astype(np.float32))
    out = op.add(op.convolution(gelu, kernel, [1, 1], [0, 0], [0, 0], [1, 1], name="layer"), bias)
    return ov.Model([op.multiply(out, gelu) if read_twice else out], [given])


@pytest.mark.parametrize(
    ("graph", "lifted"), [(mlp(True), 1), (mlp(False), 1), (convolutions(False), 1), (convolutions(True), 0)]
)
def test_lifted_gelus_give_the_same_and_are_never_negative(graph: ov.Model, lifted: int) -> None:
    given = np.random.default_rng(2).normal(size=tuple(graph.input().shape)).astype(np.float32)
    before = run(graph, given)
    calibration.lift_gelus(graph)
    np.testing.assert_allclose(run(graph, given), before, atol=1e-5)
    raised = [node for node in graph.get_ordered_ops() if node.get_friendly_name().endswith("/lifted")]
    assert len(raised) == lifted
    for node in raised:
        watched = ov.Model([op.result(node.output(0))], graph.get_parameters())
        values = run(watched, np.linspace(-3, 3, given.size, dtype=np.float32).reshape(given.shape))
        assert 0 <= values.min() < 0.01


def test_gelus_of_layers_that_are_not_quantized_stay() -> None:
    graph = convolutions(False)
    calibration.lift_gelus(graph, except_for={"layer"})
    assert not any(name.endswith("/lifted") for name in names(graph))


# ------------------------------------------------------------------ rounded weights
@pytest.mark.parametrize("inputs", [5, 200], ids=["one block", "several blocks"])
def test_rounded_weights_lose_less_than_nearest_ones(inputs: int) -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(16, inputs))
    x = rng.normal(size=(1000, inputs)) @ rng.normal(size=(inputs, inputs))  # correlated, as activations are
    scale = np.abs(weights).max(axis=1, keepdims=True) / 15
    codes = calibration._rounded(weights, scale, x.T @ x)
    assert np.abs(codes - weights / scale).max() < 127
    nearest = np.round(weights / scale)
    assert (codes != nearest).any()
    errors = [np.square(x @ (rounded * scale - weights).T).mean() for rounded in (codes, nearest)]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("correlation", [np.eye(3), np.zeros((3, 3))], ids=["uncorrelated", "always zero"])
def test_uncorrelated_inputs_get_weights_to_nearest(correlation: Any) -> None:
    weights = np.array([[0.26, -0.74, 0.5], [1.0, 0.49, -1.51]])
    codes = calibration._rounded(weights, np.full((2, 1), 0.5), correlation)
    np.testing.assert_array_equal(codes, [[1, -1, 1], [2, 1, -3]])
