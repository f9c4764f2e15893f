"""ONNX graphs for engines other than OpenVINO: in float32, or with ONNX Runtime's dynamic int8."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graysam.exporting.accounting import graph_layers
from graysam.exporting.decoder_graph import BoxDecoder, BoxTokens
from graysam.exporting.encoder_graph import ImageEncoder
from graysam.models.sam import Sam, inference_copy

OPSET = 20  # the first with Gelu as one operator
_LARGEST_MODEL = 1 << 31  # bytes of one protobuf message; larger weights lie in a file of their own


class _Decoder(nn.Module):
    """Both steps of decoding in one graph: embedding (1,HW,256), boxes (N,4) -> logits, iou."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.box_tokens, self.box_decoder = BoxTokens(model), BoxDecoder(model)

    def forward(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return self.box_decoder(self.box_tokens(boxes), embedding)


def export_onnx(model: Sam, size: int, folder: Path) -> None:
    """Write `encoder.onnx` and `decoder.onnx` into a folder, weights inside.

    The encoder takes images float32 (1,3,S,S) and returns an embedding (1,HW,256), channels last. The decoder takes
    that and boxes float32 (N,4) on the S grid, N free, and returns logits (N,S,S) and the predicted IoU (N,).

    Args:
        model: float32, left as it is.
        size: side S of its square input in pixels.
        folder: it exists.
    """
    network = inference_copy(model)
    prompts = network.prompt_encoder
    embedding = torch.zeros(1, prompts.embedding_size**2, prompts.embedding_dim)
    _export(ImageEncoder(network), {"images": torch.zeros(1, 3, size, size)}, ["embedding"], folder / "encoder.onnx")
    _export(
        _Decoder(network),
        {"embedding": embedding, "boxes": torch.zeros(3, 4)},
        ["logits", "iou"],
        folder / "decoder.onnx",
        dynamic={"embedding": None, "boxes": {0: torch.export.Dim("N")}},
    )


def _export(
    module: nn.Module, examples: dict[str, Tensor], outputs: Sequence[str], file: Path, dynamic: Any = None
) -> None:
    module = module.eval().requires_grad_(False)
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    with torch.no_grad():
        module(*examples.values())  # TinyViT caches biases in its first evaluation, which cannot be the exporter's
        torch.onnx.export(
            module,
            tuple(examples.values()),
            file,
            input_names=list(examples),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dynamic,
            external_data=2 * weights > _LARGEST_MODEL,  # there are constants besides the weights
            verbose=False,
        )


def export_dynamic_onnx(model: Sam, size: int, folder: Path) -> frozenset[str]:
    """Write the graphs of `export_onnx` with every product with a constant matrix in dynamic int8.

    Returns:
        The names of the layers in int8: all but the encoder's convolutions.

    Raises:
        ValueError: ONNX Runtime quantized other matrices than those of these layers.
    """
    sizes: list[int] = []
    with tempfile.TemporaryDirectory(prefix="graysam_onnx_") as temporary:
        export_onnx(model, size, Path(temporary))
        for name in ("encoder.onnx", "decoder.onnx"):
            sizes += _quantize_dynamic(Path(temporary) / name, folder / name)
    layers = {name: model.get_submodule(name) for name in graph_layers(model)}
    products = {name: layer.weight.numel() for name, layer in layers.items() if not isinstance(layer, nn.Conv2d)}  # type: ignore[operator]
    if sorted(sizes) != sorted(products.values()):  # by size, as the graphs do not name layers
        raise ValueError(f"ONNX Runtime quantized {len(sizes)} matrices where the model has {len(products)}")
    return frozenset(products)


def _quantize_dynamic(source: Path, target: Path) -> list[int]:
    """Quantize a graph; return the number of elements of each int8 matrix."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    graph = onnx.load(source)
    add_pre_process_metadata(graph)  # torch's exporter has inferred the shapes and folded constants
    quantize_dynamic(graph, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    quantized = onnx.load(target).graph
    constants = {tensor.name: tensor for tensor in quantized.initializer}
    products = [node.input[1] for node in quantized.node if node.op_type == "MatMulInteger"]
    return [onnx.numpy_helper.to_array(constants[name]).size for name in products]
