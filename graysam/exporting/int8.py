"""Post-training quantization of an image encoder to int8, by NNCF.

Convolutions and linear layers, which take most of the time, are quantized. The rest takes little time and much
accuracy: sums of residual streams, normalization, products of activations (attention's; OpenVINO's int8 product of
linear attention even differs from one compilation to the next), upsampling, convolutions with maps as fine as the
image, and the layers of KEPT. Two things reduce the error: GELUs are lifted, so that activations use all 256 levels,
and weights are rounded so that errors cancel on their inputs.

A network whose activations are bounded, as graysam_s's, needs no exception but its LayerNorm and its upsampling.
"""

import logging
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.exporting.conversion import is_as_fine_as_the_image
from graysam.inference.openvino_core import disable_telemetry, open_core, signal_stack_kept
from graysam.models.cost import LAYERS
from graysam.models.sam import Sam

disable_telemetry()  # before the imports of NNCF and OpenVINO, which report themselves

import nncf  # noqa: E402
import openvino as ov  # noqa: E402
import openvino.opset13 as op  # noqa: E402

IGNORED_TYPES = (
    *("Add", "Concat", "Divide", "Interpolate", "MVN", "Multiply", "Pad"),
    *("Reshape", "ScaledDotProductAttention", "Softmax", "Transpose"),
)
# Layers that stay in higher precision, by their path in the encoder.
# EfficientViT-SAM: the stem, stages.2 and .3, the neck's 1x1 convolutions. Activations from stages.2 on can grow a
# hundredfold from one image to another, too much for one range: with all in int8 the embedding's error on CT slices is
# 14 %, with these kept it is 2 %. The others are 73 % of the multiplications.
# LiteMedSAM's TinyViT: depthwise convolutions, which are bound by memory in any precision; the neck's first layer; the
# one before the last stage, and that stage's MLPs. Each of these groups causes a tenth of the embedding's squared error
# or more, and little of the gain in time.
KEPT = re.compile(
    r"backbone\.stem\.|backbone\.stages\.[23]\..*\.main\.|neck\.laterals\.|neck\.blocks\.\d\.main\.point_conv(\.|$)"
    r"|(^|\.)neck\.(head|0)(\.|$)"
    r"|stages\.\d\.downsample\.conv2|stages\.3\.downsample\.conv3|local_conv|stages\.3\.blocks\.\d\.mlp"
)
# Of a network with bounded activations, which OpenVINO knows as Clamp.
BOUNDED, IGNORED_IF_BOUNDED = "Clamp", ("Interpolate", "MVN")
PRODUCTS = frozenset(("Convolution", "GroupConvolution", "MatMul"))
ROUNDED_ON = 24  # images whose activations weights are rounded for
ROWS = 2048  # input vectors of a layer that are used of each of them
LIFT = np.float32(0.17004)  # a little more than GELU's depth, 0.16997
DAMPING = 0.01  # share of the mean squared input that is added to every input's
BLOCK = 64  # inputs after which errors are propagated to all that follow, as one matrix product

Float64 = NDArray[np.float64]


def quantize_encoder(encoder: ov.Model, images: Sequence[NDArray[np.float32]]) -> ov.Model:
    """Quantize an encoder graph of `graysam.exporting.conversion.convert` to int8.

    Args:
        encoder: left as it is.
        images: prepared training images, float32 (3,S,S): all give the ranges, ROUNDED_ON of them round the weights.

    Returns:
        A graph with FakeQuantize nodes, which OpenVINO runs in int8.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("there are no images to calibrate on; at least one is required")
    nncf.set_log_level(logging.ERROR)
    lifted = encoder.clone()
    lift_gelus(lifted, except_for=_ignored(lifted))
    with signal_stack_kept():
        quantized = nncf.quantize(
            lifted,
            nncf.Dataset([image[None] for image in images]),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=nncf.IgnoredScope(names=sorted(_ignored(lifted)), validate=False),
            # NNCF's bias correction assumes weights that are rounded to nearest.
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
    round_weights(quantized, lifted, images[:: -(-len(images) // ROUNDED_ON)])
    return quantized


def quantized_layers(encoder: ov.Model, model: Sam) -> frozenset[str]:
    """Return the names, in the model, of the layers that a quantized graph of its encoder computes in int8.

    Both factors are int8: the input comes from a FakeQuantize, the weights are stored so.
    """
    modules, names = dict(model.named_modules()), set()
    for node in encoder.get_ordered_ops():
        if node.get_type_name() not in PRODUCTS or node.input_value(0).get_node().get_type_name() != "FakeQuantize":
            continue
        if _is_int8(_weights(node)):
            name = _path(node).replace("encoder.", "image_encoder.", 1).replace(".neck.neck.", ".neck.")
            # A convolution that a batch norm was folded into has the batch norm's path.
            names.add(name if isinstance(modules[name], LAYERS) else f"{name.rpartition('.')[0]}.conv")
    return frozenset(names)


def lift_gelus(graph: ov.Model, *, except_for: Collection[str] = ()) -> None:
    """Add LIFT to every GELU that only linear layers and 1x1 convolutions read, and subtract it in their biases.

    Values that are never negative are quantized without a sign, in steps half as large. In float the graph computes the
    same, to rounding.

    Args:
        graph: changed in place.
        except_for: friendly names of layers that will not be quantized, whose inputs stay as they are.
    """
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
    graph.validate_nodes_and_infer_types()


def round_weights(quantized: ov.Model, encoder: ov.Model, images: Sequence[NDArray[np.float32]]) -> None:
    """Round the int8 weights of linear layers and 1x1 convolutions so that errors cancel on their inputs.

    A weight's error is propagated to the weights of its row that are not rounded yet, by the inputs' correlations
    (GPTQ, Frantar et al. 2023, arXiv:2210.17323).

    Args:
        quantized: NNCF's graph of `encoder`, changed in place.
        encoder: the float32 graph, whose nodes have the same friendly names.
        images: prepared images, float32 (3,S,S).
    """
    exact = {node.get_friendly_name(): node for node in encoder.get_ordered_ops() if _is_dense(node)}
    layers = [node for node in quantized.get_ordered_ops() if _is_dense(node) and _is_int8(_weights(node))]
    for layer, correlation in zip(layers, _correlations(quantized, layers, images), strict=True):
        weights = exact[layer.get_friendly_name()].input_value(1).get_node().data
        scale = layer.input_value(1).get_node().input_value(1).get_node().data  # NNCF multiplies codes and scales
        rows = _rounded(_rows_of(layer, weights).astype(np.float64), scale.reshape(-1, 1), correlation)
        columns_first = layer.get_type_name() == "MatMul" and not layer.get_attributes()["transpose_b"]
        new = op.constant(np.ascontiguousarray((rows.T if columns_first else rows).reshape(weights.shape)))
        for target in _weights(layer).output(0).get_target_inputs():
            target.replace_source_output(new.output(0))


def _ignored(encoder: ov.Model) -> set[str]:
    """Return the friendly names of the nodes that stay in higher precision.

    Convolutions with maps as fine as the image are among them: TinyViT has such ones (EfficientViT has none), they
    cause most of the embedding's error, and their time is that of moving 65536 pixels, so int8 would gain nothing.
    """
    nodes = encoder.get_ordered_ops()
    if any(node.get_type_name() == BOUNDED for node in nodes):
        return {node.get_friendly_name() for node in nodes if node.get_type_name() in IGNORED_IF_BOUNDED}
    ignored = set()
    for node in nodes:
        kept = node.get_type_name() in PRODUCTS and (
            _weights(node) is None or KEPT.search(_path(node)) or is_as_fine_as_the_image(node, encoder)
        )
        if kept or node.get_type_name() in IGNORED_TYPES:
            ignored.add(node.get_friendly_name())
    return ignored


def _path(node: Any) -> str:
    """Return a product's path in the traced module; where a batch norm was folded, the sum after it has the name."""
    for candidate in (node, *_readers(node)):
        # Friendly names of traced nodes are `__module.<path of the module>/aten::<operation>/...`.
        if match := re.match(r"__module\.([^/]+)/", candidate.get_friendly_name()):
            return match[1]
    return str(node.get_friendly_name())


def _weights(node: Any) -> Any:
    """Return the constant behind a product's second factor, None where that is not constant.

    Constant first factors do not belong to layers: the neck's upsampling multiplies its matrices with maps.
    """
    source = node.input_value(1).get_node()
    while source.get_type_name() in ("Convert", "FakeQuantize", "Multiply", "Reshape", "Transpose"):
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


def _is_int8(weights: Any) -> bool:
    return weights is not None and bool(weights.get_element_type() == ov.Type.i8)


def _readers(node: Any) -> list[Any]:
    return [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]


def _is_dense(node: Any) -> bool:
    """Return whether a node multiplies every pixel or row with one matrix."""
    if node.get_type_name() == "Convolution":
        return list(node.input_value(1).get_shape())[2:] == [1, 1]
    return bool(node.get_type_name() == "MatMul")


def _bias(layer: Any) -> tuple[Any, int] | None:
    """Return the sum after a layer and the port of its bias; None where the node is not a layer with a bias."""
    readers = _readers(layer)
    if _is_dense(layer) and _is_constant(layer, 1) and len(readers) == 1 and readers[0].get_type_name() == "Add":
        return next(((readers[0], port) for port in (0, 1) if _is_constant(readers[0], port)), None)
    return None


def _is_constant(node: Any, port: int) -> bool:
    return bool(node.input_value(port).get_node().get_type_name() == "Constant")


def _rows_of(layer: Any, weights: NDArray[Any]) -> NDArray[Any]:
    """Return a layer's weights as (outputs, inputs)."""
    if layer.get_type_name() == "Convolution":
        return weights.reshape(len(weights), -1)
    return weights if layer.get_attributes()["transpose_b"] else weights.T


def _correlations(graph: ov.Model, layers: Sequence[Any], images: Sequence[NDArray[np.float32]]) -> list[Float64]:
    """Return for every layer the sum of x x' over some of its inputs x."""
    draw = np.random.default_rng(0)
    inputs = ov.Model([op.result(layer.input_value(0)) for layer in layers], graph.get_parameters())
    request = open_core().compile_model(inputs, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    sums: list[Any] = [0.0] * len(layers)
    for image in images:
        request.infer([image[None]])
        for index, layer in enumerate(layers):
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
