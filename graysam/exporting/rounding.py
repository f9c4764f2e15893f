"""Reduce the int8 error of an encoder graph: activations use all 256 levels, weights are rounded for their inputs."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.inference.openvino_core import disable_telemetry, open_core

disable_telemetry()  # before OpenVINO's import, which reports itself

import openvino as ov  # noqa: E402
import openvino.opset13 as op  # noqa: E402

LIFT = np.float32(0.17004)  # a little more than GELU's depth, 0.16997
ROWS = 2048  # input vectors of a layer that are used of each image
DAMPING = 0.01  # share of the mean squared input that is added to every input's
BLOCK = 64  # inputs after which errors are propagated to all that follow, as one matrix product

Float64 = NDArray[np.float64]


def lift_gelus(graph: ov.Model, *, except_for: Collection[str] = ()) -> int:
    """Add LIFT to every GELU that only linear layers and 1x1 convolutions read, and subtract it in their biases.

    Values that are never negative are quantized without a sign, in steps half as large. In float the graph computes the
    same, to rounding.

    Args:
        graph: changed in place.
        except_for: friendly names of layers that will not be quantized, whose inputs stay as they are.

    Returns:
        The number of GELUs, which may be 0.
    """
    lifted = 0
    for gelu in graph.get_ordered_ops():
        readers = _readers(gelu) if gelu.get_type_name() == "Gelu" else []
        biases = [_bias(reader) for reader in readers]
        if not readers or None in biases or any(reader.get_friendly_name() in except_for for reader in readers):
            continue
        raised = op.add(gelu, op.constant(LIFT))
        raised.set_friendly_name(f"{gelu.get_friendly_name()}/lifted")
        for reader, found in zip(readers, biases, strict=True):
            sum_, port = found  # type: ignore[misc]
            weights = _rows_of(reader, reader.input_value(1).get_node().data).astype(np.float64)
            bias = sum_.input_value(port).get_node().data
            change = LIFT * weights.sum(axis=1).reshape((-1, 1, 1) if reader.get_type_name() == "Convolution" else -1)
            reader.input(0).replace_source_output(raised.output(0))
            sum_.input(port).replace_source_output(op.constant((bias - change).astype(np.float32)).output(0))
        lifted += 1
    graph.validate_nodes_and_infer_types()
    return lifted


def round_weights(quantized: ov.Model, encoder: ov.Model, images: Sequence[NDArray[np.float32]], *, seed: int) -> int:
    """Round the int8 weights of linear layers and 1x1 convolutions so that errors cancel on their inputs.

    A weight's error is propagated to the weights of its row that are not rounded yet, by the inputs' correlations
    (GPTQ, Frantar et al. 2023, arXiv:2210.17323).

    Args:
        quantized: NNCF's graph of `encoder`, changed in place; made without bias correction, which is for weights
            rounded to nearest.
        encoder: the float32 graph, whose nodes have the same friendly names.
        images: prepared images, float32 (3,S,S); without any, nothing is changed.
        seed: of the draw of input vectors.

    Returns:
        The number of layers.
    """
    exact = {
        node.get_friendly_name(): node.input_value(1).get_node().data
        for node in encoder.get_ordered_ops()
        if _is_dense(node) and node.input_value(1).get_node().get_type_name() == "Constant"
    }
    layers = [
        (node, *codes)
        for node in quantized.get_ordered_ops()
        if _is_dense(node) and node.get_friendly_name() in exact and (codes := _int8_codes(node)) is not None
    ]
    if not layers or not images:
        return 0
    for (layer, codes, scale), correlation in zip(layers, _correlations(quantized, layers, images, seed), strict=True):
        weights = exact[layer.get_friendly_name()]
        rows = _rounded(_rows_of(layer, weights).astype(np.float64), scale.data.reshape(-1, 1), correlation)
        columns_first = layer.get_type_name() == "MatMul" and not layer.get_attributes()["transpose_b"]
        new = op.constant(np.ascontiguousarray((rows.T if columns_first else rows).reshape(weights.shape)))
        for target in codes.output(0).get_target_inputs():
            target.replace_source_output(new.output(0))
    return len(layers)


def _readers(node: Any) -> list[Any]:
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def _is_dense(node: Any) -> bool:
    """Return whether a node multiplies every pixel or row with one matrix."""
    if node.get_type_name() == "Convolution":
        return list(node.input_value(1).get_shape())[2:] == [1, 1]
    return bool(node.get_type_name() == "MatMul")


def _bias(layer: Any) -> tuple[Any, int] | None:
    """Return the sum after a layer and the port of its bias; None where the node is not a layer with a bias."""
    if not _is_dense(layer) or layer.input_value(1).get_node().get_type_name() != "Constant":
        return None
    readers = _readers(layer)
    if len(readers) != 1 or readers[0].get_type_name() != "Add":
        return None
    for port in (0, 1):
        if readers[0].input_value(port).get_node().get_type_name() == "Constant":
            return readers[0], port
    return None


def _rows_of(layer: Any, weights: NDArray[Any]) -> NDArray[Any]:
    """Return a layer's weights as (outputs, inputs)."""
    if layer.get_type_name() == "Convolution":
        return weights.reshape(len(weights), -1)
    return weights if layer.get_attributes()["transpose_b"] else weights.T


def _int8_codes(layer: Any) -> tuple[Any, Any] | None:
    """Return the constants of a layer's int8 weights and of their scales, as NNCF stores them."""
    scaled = layer.input_value(1).get_node()
    if scaled.get_type_name() != "Multiply":
        return None
    codes, scale = scaled.input_value(0).get_node(), scaled.input_value(1).get_node()
    if codes.get_type_name() == "Convert":
        codes = codes.input_value(0).get_node()
    return (codes, scale) if codes.get_element_type() == ov.Type.i8 else None


def _correlations(
    graph: ov.Model, layers: Sequence[tuple[Any, ...]], images: Sequence[NDArray[np.float32]], seed: int
) -> list[Float64]:
    """Return for every layer the sum of x x' over some of its inputs x."""
    draw = np.random.default_rng(seed)
    inputs = ov.Model([op.result(layer[0].input_value(0)) for layer in layers], graph.get_parameters())
    request = open_core().compile_model(inputs, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    sums: list[Any] = [0.0] * len(layers)
    for image in images:
        request.infer([image[None]])
        for index, (layer, *_) in enumerate(layers):
            values = request.get_output_tensor(index).data
            rows = values[0].reshape(values.shape[1], -1).T if layer.get_type_name() == "Convolution" else values
            rows = rows.reshape(-1, rows.shape[-1])
            if len(rows) > ROWS:
                rows = rows[draw.choice(len(rows), ROWS, replace=False)]
            sums[index] = sums[index] + rows.T.astype(np.float64) @ rows
    return sums


def _rounded(weights: Float64, scale: Float64, correlation: Float64) -> NDArray[np.int8]:
    """Round weights (outputs, inputs) to multiples of scale (outputs, 1); return the multiples, -127 to 127."""
    strength = np.diag(correlation)
    order = np.argsort(-strength)  # the strongest first, while most weights can still compensate
    ordered = correlation[np.ix_(order, order)] + DAMPING * max(float(strength.mean()), 1e-12) * np.eye(len(order))
    propagation = np.linalg.cholesky(np.linalg.inv(ordered)).T
    left, codes = weights[:, order], np.empty(weights.shape, np.int8)
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        errors = np.empty((len(weights), stop - start))
        for i in range(start, stop):
            code = np.clip(np.round(left[:, i] / scale[:, 0]), -127, 127)
            codes[:, order[i]] = code
            error = errors[:, i - start] = (left[:, i] - code * scale[:, 0]) / propagation[i, i]
            left[:, i + 1 : stop] -= np.outer(error, propagation[i, i + 1 : stop])
        left[:, stop:] -= errors @ propagation[start:stop, stop:]
    return codes
