"""What makes int8 more exact: lifted GELUs change nothing in float, rounded weights lose less than nearest ones."""

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("nncf", reason="an extra", exc_type=ImportError)

import openvino as ov
import openvino.opset13 as op

from graysam.exporting.rounding import _rounded, lift_gelus, round_weights

Float32 = NDArray[np.float32]


def run(graph: ov.Model, given: Float32) -> Float32:
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(given)[0], np.float32)


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
    out = op.add(op.convolution(gelu, kernel, [1, 1], [0, 0], [0, 0], [1, 1]), bias)
    return ov.Model([op.multiply(out, gelu) if read_twice else out], [given])


@pytest.mark.parametrize(
    ("graph", "lifted"), [(mlp(True), 1), (mlp(False), 1), (convolutions(False), 1), (convolutions(True), 0)]
)
def test_lifted_gelus_give_the_same_and_are_never_negative(graph: ov.Model, lifted: int) -> None:
    given = np.random.default_rng(2).normal(size=tuple(graph.input().shape)).astype(np.float32)
    before = run(graph, given)
    assert lift_gelus(graph) == lifted
    np.testing.assert_allclose(run(graph, given), before, atol=1e-5)
    if lifted:
        raised = next(node for node in graph.get_ordered_ops() if node.get_friendly_name().endswith("/lifted"))
        watched = ov.Model([op.result(raised.output(0))], graph.get_parameters())
        values = run(watched, np.linspace(-3, 3, given.size, dtype=np.float32).reshape(given.shape))
        assert 0 <= values.min() < 0.01


def test_gelus_of_layers_that_are_not_quantized_stay() -> None:
    graph = convolutions(False)
    (layer,) = (node for node in graph.get_ordered_ops() if node.get_type_name() == "Convolution")
    assert lift_gelus(graph, except_for={layer.get_friendly_name()}) == 0


@pytest.mark.parametrize("inputs", [5, 200], ids=["one block", "several blocks"])
def test_rounded_weights_lose_less_than_nearest_ones(inputs: int) -> None:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(16, inputs))
    x = rng.normal(size=(1000, inputs)) @ rng.normal(size=(inputs, inputs))  # correlated, as activations are
    scale = np.abs(weights).max(axis=1, keepdims=True) / 15
    codes = _rounded(weights, scale, x.T @ x)
    assert np.abs(codes - weights / scale).max() < 127
    nearest = np.round(weights / scale)
    assert (codes != nearest).any()
    errors = [np.square(x @ (rounded * scale - weights).T).mean() for rounded in (codes, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_uncorrelated_inputs_get_weights_to_nearest() -> None:
    weights = np.array([[0.26, -0.74, 0.5], [1.0, 0.49, -1.51]])
    codes = _rounded(weights, np.full((2, 1), 0.5), np.eye(3))
    np.testing.assert_array_equal(codes, [[1, -1, 1], [2, 1, -3]])


def test_an_input_that_is_always_zero_is_no_division_by_zero() -> None:
    codes = _rounded(np.ones((2, 3)), np.full((2, 1), 0.5), np.zeros((3, 3)))
    np.testing.assert_array_equal(codes, np.full((2, 3), 2))


def test_no_images_change_nothing() -> None:
    assert round_weights(mlp(True), mlp(True), [], seed=0) == 0
