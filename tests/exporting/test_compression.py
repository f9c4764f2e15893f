"""Compressed constants: codes of 8 bits give the same numbers to half a step, indices give them exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op
import pytest
from numpy.typing import NDArray

from graysam.exporting import pipeline
from graysam.exporting.compression import compress_constants, compress_exported
from graysam.exporting.conversion import save_graphs
from graysam.inference.openvino_core import open_core
from tests.support.commands import save_tiny_model

RNG = np.random.default_rng(0)


def stored(values: NDArray[np.floating[Any]]) -> Any:
    """Return a float16 constant, converted as in graphs that are written."""
    return op.convert(op.constant(np.ascontiguousarray(values, np.float16)), np.float32)


def compressed(node: Any, given: Any, expected: int) -> NDArray[np.float32]:
    """Compress the one constant that `node` reads beside `given`; return the numbers that it reads then."""
    graph = ov.Model([op.result(node)], [given])
    compress_constants(graph)
    found = [item for item in graph.get_ordered_ops() if item.get_friendly_name().endswith("/compressed")]
    assert len(found) == expected
    constants = [
        item for item in graph.get_ordered_ops() if item.get_type_name() == "Constant" and item.data.size > 999
    ]
    assert {constant.data.itemsize for constant in constants} == ({1} if expected else {2})
    reader = ov.Model([op.result(node.input_value(node.get_input_size() - 1))], [])
    return np.array(open_core().compile_model(reader, "CPU")({})[0])


@pytest.mark.parametrize("transposed", [False, True])
def test_layers_get_a_scale_for_each_output_channel(transposed: bool) -> None:
    weights = RNG.normal(size=(200, 100)) * np.geomspace(1e-5, 10, 100)  # inputs, outputs
    given = op.parameter([1, 200], np.float32)
    node = op.matmul(given, stored(weights.T if transposed else weights), False, transposed)
    found = compressed(node, given, 1)
    found = found.T if transposed else found
    exact = weights.astype(np.float16).astype(np.float32)
    step = np.abs(exact).max(axis=0) / 127
    assert (np.abs(found - exact) <= 0.51 * step + 64 * 6e-8).all(), "scales are float16, whose smallest steps are 6e-8"


def test_convolutions_do_too_and_small_ones_stay() -> None:
    for channels, expected in ((600, 1), (400, 0)):
        weights = RNG.normal(size=(channels, 256, 1, 1)).astype(np.float16)
        given = op.parameter([1, 256, 4, 4], np.float32)
        node = op.convolution(given, stored(weights), [1, 1], [0, 0], [0, 0], [1, 1])
        found = compressed(node, given, expected)
        step = np.abs(weights).max(axis=1, keepdims=True) / 127 if expected else 0 * weights
        assert (np.abs(found - weights) <= 0.51 * step).all()


def test_attention_biases_stay_exact() -> None:
    place = np.abs(np.arange(100)[:, None] - np.arange(100))
    biases = RNG.normal(size=(3, 100)).astype(np.float16)[:, place]
    given = op.parameter([3, 100, 8], np.float32)
    attended = op.scaled_dot_product_attention(given, given, given, stored(biases))
    np.testing.assert_array_equal(compressed(attended, given, 1), biases.astype(np.float32))


def test_an_encoders_matrices_stay() -> None:
    weights = RNG.normal(size=(200, 100)).astype(np.float16)
    given = op.parameter([1, 200], np.float32)
    graph = ov.Model([op.result(op.matmul(given, stored(weights), False, False))], [given])
    compress_constants(graph, matrices=False)
    (constant,) = (item for item in graph.get_ordered_ops() if item.get_type_name() == "Constant")
    np.testing.assert_array_equal(constant.data, weights)


def test_equal_constants_become_one() -> None:
    values = RNG.normal(size=(1, 300, 256)).astype(np.float16)
    given = op.parameter([1, 300, 256], np.float32)
    graph = ov.Model([op.result(op.add(op.add(given, stored(values)), stored(values)))], [given])
    compress_constants(graph)
    assert sum(item.get_friendly_name().endswith("/compressed") for item in graph.get_ordered_ops()) == 1
    zeros = np.zeros((1, 300, 256), np.float32)
    found = open_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({0: zeros})[0]
    np.testing.assert_allclose(found, 2 * values.astype(np.float32), atol=2 * 0.51 * 5 / 127)


def test_graphs_are_written_with_codes(tmp_path: Path) -> None:
    given = op.parameter([1, 256], np.float32, name="images")
    graph = ov.Model([op.result(op.matmul(given, stored(RNG.normal(size=(256, 256))), False, False))], [given])
    compress_constants(graph)
    save_graphs({"encoder": graph}, tmp_path, half_precision=True)
    assert 65536 < (tmp_path / "encoder.bin").stat().st_size < 68000


@pytest.mark.usefixtures("traced_once")
def test_weights_stay_float16_where_the_gate_asks_for_it(
    toy_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="an extra")
    model = save_tiny_model(tmp_path / "tiny.safetensors", channels="replicate", filled=True)
    options: dict[str, Any] = {"shards": [toy_shards], "calibration_images": 2, "check_images": 2, "threads": 1}
    verdicts = iter([["CT: DSC is lower"], []])
    monkeypatch.setattr(pipeline, "shortcomings", lambda summary, precision: next(verdicts))
    large = pipeline.export_model(str(model), tmp_path / "large", **options)
    assert "weights stay float16, as with int8 CT: DSC is lower" in capsys.readouterr().out
    assert large.description["weights"] == "float16"
    small = compress_exported(large, tmp_path / "small")
    assert (small.description["weights"], small.precision) == ("int8", "int8")
    sizes = [item.description["files"]["box_decoder.bin"]["bytes"] for item in (small, large)]
    assert sizes[0] < 0.7 * sizes[1]
