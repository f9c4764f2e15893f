"""ONNX graphs for engines other than OpenVINO: in float32, or with ONNX Runtime's dynamic int8."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graysam.exporting.graphs import BoxDecoder, BoxTokens, ImageEncoder, graph_layers
from graysam.models.sam import Sam, inference_copy

OPSET = 20  # the first with Gelu as one operator


class _Decoder(nn.Module):
    """Both steps of decoding in one graph: embedding (1,HW,256), boxes (N,4) -> logits, iou."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.box_tokens, self.box_decoder = BoxTokens(model), BoxDecoder(model)

    def forward(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return self.box_decoder(self.box_tokens(boxes), embedding)


def export_onnx(model: Sam, folder: Path) -> None:
    """Write `encoder.onnx` and `decoder.onnx` into a folder that exists, weights inside.

    The encoder takes images float32 (1,3,S,S) and returns an embedding (1,HW,256), channels last. The decoder takes
    that and boxes float32 (N,4) on the S grid, N free, and returns logits (N,S,S) and the predicted IoU (N,). The model
    is float32 and stays as it is.
    """
    network = inference_copy(model)
    prompts = network.prompt_encoder
    images = torch.zeros(1, 3, prompts.input_size, prompts.input_size)
    embedding = torch.zeros(1, prompts.embedding_size**2, prompts.embedding_dim)
    decoder_inputs = {"embedding": embedding, "boxes": torch.zeros(3, 4)}
    free = {"embedding": None, "boxes": {0: torch.export.Dim("N")}}
    _export(ImageEncoder(network), {"images": images}, ["embedding"], folder / "encoder.onnx", None)
    _export(_Decoder(network), decoder_inputs, ["logits", "iou"], folder / "decoder.onnx", free)


def _export(module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], file: Path, free: Any) -> None:
    module = module.eval().requires_grad_(False)
    examples = tuple(inputs.values())
    with torch.no_grad():
        module(*examples)  # TinyViT caches biases in its first evaluation, which cannot be the exporter's
        torch.onnx.export(
            module,
            examples,
            file,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=free,
            external_data=False,
            verbose=False,
        )


def export_dynamic_onnx(model: Sam, folder: Path) -> frozenset[str]:
    """Write the graphs of `export_onnx` with every product with a constant matrix in dynamic int8.

    Returns:
        The names of the layers in int8: all but the encoder's convolutions.

    Raises:
        ValueError: ONNX Runtime quantized other matrices than those of these layers.
    """
    sizes: list[int] = []
    with tempfile.TemporaryDirectory(prefix="graysam_onnx_") as temporary:
        export_onnx(model, Path(temporary))
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
