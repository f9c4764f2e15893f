"""Post-training quantization of an image encoder to int8, by NNCF.

Convolutions and linear layers, which take most of the time, are quantized. The rest takes little time and much
accuracy: sums of residual streams, normalization, products of activations (attention's; OpenVINO's int8 product of
linear attention even differs from one compilation to the next), upsampling, convolutions with maps as fine as the
image, and the layers of KEPT. GELUs are lifted and weights rounded as in `graysam.exporting.rounding`.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.exporting.graph_files import is_as_fine_as_the_image
from graysam.exporting.rounding import lift_gelus, round_weights
from graysam.inference.openvino_core import disable_telemetry, signal_stack_kept

disable_telemetry()  # before the imports of NNCF and OpenVINO, which report themselves

import nncf  # noqa: E402
import openvino as ov  # noqa: E402

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
ROUNDED_ON = 24  # images whose activations weights are rounded for
PRODUCTS = frozenset(("Convolution", "GroupConvolution", "MatMul"))
# Friendly names of traced nodes: `__module.<path of the module>/aten::<operation>/...`
_TRACED = re.compile(r"^__module\.(?P<path>[^/]+)/")


def quantize_encoder(encoder: ov.Model, images: Sequence[NDArray[np.float32]], *, seed: int = 0) -> ov.Model:
    """Quantize an encoder graph of `graysam.exporting.conversion.convert` to int8.

    Args:
        encoder: left as it is.
        images: prepared training images, float32 (3,S,S): all give the ranges, ROUNDED_ON of them round the weights.
        seed: of the draw of input vectors that weights are rounded for.

    Returns:
        A graph with FakeQuantize nodes, which OpenVINO runs in int8.

    Raises:
        ValueError: no images.
        RuntimeError: NNCF quantized nothing.
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
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
    if not quantized_layers(quantized):
        raise RuntimeError("NNCF quantized no layer of the encoder")
    round_weights(quantized, lifted, images[:: -(-len(images) // ROUNDED_ON)], seed=seed)
    return quantized


def quantized_layers(encoder: ov.Model) -> frozenset[str]:
    """Return the paths, in the traced encoder, of the layers that a quantized graph computes in int8.

    Both factors are int8: the input comes from a FakeQuantize, the weights are stored so. A convolution that a batch
    norm was folded into has the batch norm's path.
    """
    return frozenset(
        _path(node)
        for node in encoder.get_ordered_ops()
        if node.get_type_name() in PRODUCTS
        and node.input_value(0).get_node().get_type_name() == "FakeQuantize"
        and (weights := _weights(node)) is not None
        and weights.get_element_type() == ov.Type.i8
    )


def _ignored(encoder: ov.Model) -> set[str]:
    """Return the friendly names of the nodes that stay in higher precision.

    Convolutions with maps as fine as the image are among them: TinyViT has such ones (EfficientViT has none), they
    cause most of the embedding's error, and their time is that of moving 65536 pixels, so int8 would gain nothing.
    """
    ignored = set()
    for node in encoder.get_ordered_ops():
        kept = node.get_type_name() in PRODUCTS and (
            _weights(node) is None or KEPT.search(_path(node)) or is_as_fine_as_the_image(node, encoder)
        )
        if kept or node.get_type_name() in IGNORED_TYPES:
            ignored.add(node.get_friendly_name())
    return ignored


def _path(node: Any) -> str:
    """Return a product's path in the traced module; where a batch norm was folded, the sum after it has the name."""
    sums = [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
    for candidate in (node, *sums):
        match = _TRACED.match(candidate.get_friendly_name())
        if match is not None:
            return match["path"]
    return str(node.get_friendly_name())


def _weights(node: Any) -> Any:
    """Return the constant behind a product's second factor, None where that is not constant.

    Constant first factors do not belong to layers: the neck's upsampling multiplies its matrices with maps.
    """
    source = node.input_value(1).get_node()
    while source.get_type_name() in ("Convert", "FakeQuantize", "Multiply", "Reshape", "Transpose"):
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None
