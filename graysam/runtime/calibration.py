"""Post-training quantization of an image encoder to int8, by NNCF.

What is quantized is convolutions and linear layers, where the time goes. What is left alone costs little time and much
accuracy: sums of residual streams, normalization, attention's own products, and the last convolution before the
embedding's LayerNorm.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

import nncf
import numpy as np
import openvino as ov
from numpy.typing import NDArray

IGNORED_TYPES = frozenset(
    ("Add", "Concat", "Divide", "Interpolate", "MVN", "Multiply", "Pad", "Reshape", "Softmax", "Transpose")
)
# The convolution before EfficientViT-SAM's last LayerNorm, where an error is an error of the embedding; and the linear
# layers around TinyViT's attention, which cost LiteMedSAM a point of DSC in PET and gain no time.
IGNORED_NAMES = re.compile(r"neck\.head/|\.attn\.")
QUANTIZED_TYPES = frozenset(("Convolution", "GroupConvolution", "MatMul"))
# Friendly names of what torch traced: `__module.<path of the module>/aten::<operation>/...`
_LAYER = re.compile(r"^__module\.encoder\.(?P<path>.+?)/aten::")


def quantize_encoder(encoder: ov.Model, images: Sequence[NDArray[np.float32]]) -> ov.Model:
    """Quantize an encoder graph of `graysam.runtime.conversion.convert` to int8.

    encoder: left as it is. images: prepared training images, float32 (3,S,S), as many as statistics are to be taken of.

    Returns:
        A graph with FakeQuantize nodes, which OpenVINO runs in int8.

    Raises:
        ValueError: no images.
    """
    if not images:
        raise ValueError("there are no images to calibrate on; at least one is required")
    nncf.set_log_level(logging.ERROR)  # its progress is shown all the same
    quantized = nncf.quantize(
        encoder,
        nncf.Dataset([image[None] for image in images]),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=sorted(_ignored(encoder)), validate=False),
    )
    if not quantized_layers(quantized):
        raise RuntimeError("NNCF quantized no layer of the encoder")
    return quantized


def _ignored(encoder: ov.Model) -> set[str]:
    ignored = set()
    for node in encoder.get_ordered_ops():
        name = node.get_friendly_name()
        products_of_activations = node.get_type_name() == "MatMul" and not _has_weights(node)
        if node.get_type_name() in IGNORED_TYPES or IGNORED_NAMES.search(name) or products_of_activations:
            ignored.add(name)
    return ignored


def _has_weights(node: Any) -> bool:
    """Say whether one of a node's factors is a constant, perhaps behind a conversion or a FakeQuantize."""
    for port in node.inputs():
        source = port.get_source_output().get_node()
        while source.get_type_name() in ("Convert", "FakeQuantize", "Multiply", "Reshape", "Transpose"):
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Constant":
            return True
    return False


def quantized_layers(encoder: ov.Model) -> frozenset[str]:
    """Return the names, in the Sam, of the layers that a quantized encoder graph computes in int8."""
    layers = set()
    for node in encoder.get_ordered_ops():
        if node.get_type_name() not in QUANTIZED_TYPES:
            continue
        if node.input_value(0).get_node().get_type_name() == "FakeQuantize" and _has_weights(node):
            match = _LAYER.match(node.get_friendly_name())
            if match is not None:
                layers.add("image_encoder." + match["path"].replace("neck.neck.", "neck."))
    return frozenset(layers)
