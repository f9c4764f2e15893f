"""A Sam's graphs for inference engines: OpenVINO's in memory and as files, ONNX's in float32 and in dynamic int8."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn

from graysam.exporting.graphs import BoxDecoder, BoxTokens, ImageEncoder, graph_layers
from graysam.inference.openvino_core import disable_telemetry
from graysam.models.sam import Sam, inference_copy

disable_telemetry()  # before OpenVINO's import, which reports itself

import openvino as ov  # noqa: E402
import openvino.opset13 as op  # noqa: E402
from openvino.preprocess import PrePostProcessor  # noqa: E402


def convert(model: Sam, *, half_precision: bool) -> dict[str, ov.Model]:
    """Convert a model for one image and any number of boxes.

    Args:
        model: float32, left as it is.
        half_precision: whether embeddings are float16 between the graphs, which halves their memory; for graphs that
            compute in bfloat16 or less anyway.

    Returns:
        `encoder` (images -> embedding), `box_tokens` (boxes -> tokens), `box_decoder` (tokens, embedding, valid_size ->
        logits, iou); see `graysam.exporting.graphs`.
    """
    network = inference_copy(model)
    prompts = network.prompt_encoder
    images = torch.zeros(1, 3, prompts.input_size, prompts.input_size)
    embedding = torch.zeros(1, prompts.embedding_size**2, prompts.embedding_dim)
    boxes = torch.zeros(2, 4)
    box_tokens = BoxTokens(network)
    decoder_inputs = {"tokens": box_tokens(boxes), "embedding": embedding, "valid_size": torch.tensor([60, 61])}
    graphs = {
        "encoder": _trace(ImageEncoder(network), {"images": images}, ["embedding"]),
        "box_tokens": _trace(box_tokens, {"boxes": boxes}, ["tokens"], free="boxes"),
        "box_decoder": _trace(BoxDecoder(network), decoder_inputs, ["logits", "iou"], free="tokens"),
    }
    if half_precision:
        for name, port in (("encoder", "output"), ("box_decoder", "input")):
            steps = PrePostProcessor(graphs[name])
            getattr(steps, port)("embedding").tensor().set_element_type(ov.Type.f16)
            graphs[name] = steps.build()
    return graphs


class _OneBox(nn.Module):
    """A Sam's own decoder for one image and one box."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        logits, iou = self.model.decode(embedding, boxes[None])
        return logits[0], iou[0]


def convert_plain(model: Sam) -> dict[str, ov.Model]:
    """Convert a model as it is, for one image and one box, as other projects do; a baseline for comparison.

    Returns:
        `encoder` (images -> embedding (1,256,64,64)) and `decoder` (embedding, boxes (1,4) -> logits, iou).
    """
    network = inference_copy(model)
    prompts = network.prompt_encoder
    images = torch.zeros(1, 3, prompts.input_size, prompts.input_size)
    embedding = torch.zeros(1, prompts.embedding_dim, prompts.embedding_size, prompts.embedding_size)
    return {
        "encoder": _trace(network.image_encoder, {"images": images}, ["embedding"]),
        "decoder": _trace(_OneBox(network), {"embedding": embedding, "boxes": torch.zeros(1, 4)}, ["logits", "iou"]),
    }


def _trace(module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], free: str | None = None) -> ov.Model:
    """Trace a module with named examples as inputs, whose shapes are fixed but for the first dimension of `free`."""
    module, examples = module.eval().requires_grad_(False), tuple(inputs.values())
    with torch.inference_mode(), warnings.catch_warnings():
        # OpenVINO's own way to read a module; without it, ov.convert_model raises an error.
        warnings.filterwarnings("ignore", r"`torch\.jit")
        # Sizes that become constants, for the shapes set below.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, examples, check_trace=False)  # tests compare the masks
        graph = ov.convert_model(traced, example_input=examples)
    shapes = [[-1 if name == free else len(example), *example.shape[1:]] for name, example in inputs.items()]
    graph.reshape({index: ov.PartialShape(shape) for index, shape in enumerate(shapes)})
    for port, name in zip([*graph.inputs, *graph.outputs], [*inputs, *outputs], strict=True):
        port.get_tensor().set_names({name})
    return graph


def save_graphs(graphs: Mapping[str, ov.Model], folder: Path, *, half_precision: bool) -> None:
    """Write graphs into a folder that exists, one `.xml` and one `.bin` each.

    Where a graph has int8 layers, those with maps as fine as the image are marked to be computed in float32: they are
    not in int8 for the sake of accuracy, and in bfloat16 they would cause most of the error that is left.

    Args:
        graphs: by the files' stem.
        folder: it exists.
        half_precision: whether weights are stored as float16.
    """
    for name, graph in graphs.items():
        path = folder / f"{name}.xml"
        written = graph.clone()
        if half_precision:
            _halve_constants(written)
        ov.save_model(written, path, compress_to_fp16=half_precision)
        nodes = graph.get_ordered_ops()
        if any(node.get_type_name() == "FakeQuantize" for node in nodes):
            _mark_float32(path, {node.get_friendly_name() for node in nodes if is_as_fine_as_the_image(node, graph)})


def is_as_fine_as_the_image(node: Any, graph: ov.Model) -> bool:
    """Return whether a node's maps have the height and width of the graph's one input, an image (1,C,H,W)."""
    if node.get_type_name() in ("Constant", "Parameter", "Result"):
        return False
    shape = node.get_output_partial_shape(0)
    return bool(shape.is_static and len(shape) == 4 and shape[2:] == graph.input(0).get_partial_shape()[2:])


def _halve_constants(graph: ov.Model) -> None:
    """Store large float32 constants as float16; OpenVINO itself leaves those of quantized graphs as they are."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        readers = list(node.output(0).get_target_inputs())
        if any(reader.get_node().get_type_name() == "FakeQuantize" for reader in readers):
            continue
        data = node.data
        if data.size <= 64 or np.abs(data).max() > np.finfo(np.float16).max:
            continue
        name = node.get_friendly_name()
        half = op.convert(op.constant(data.astype(np.float16)), np.float32)
        node.set_friendly_name(f"{name}/float32")
        half.set_friendly_name(name)
        for reader in readers:
            reader.replace_source_output(half.output(0))
    graph.validate_nodes_and_infer_types()


def _mark_float32(path: Path, names: set[str]) -> None:
    """Mark layers of a written graph to keep float32; OpenVINO's Python interface cannot set the attribute."""
    tree = ElementTree.parse(path)
    for layer in tree.iterfind("layers/layer"):
        if layer.get("name") in names:
            found = layer.find("rt_info")
            info = ElementTree.SubElement(layer, "rt_info") if found is None else found
            ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
    if (calibration := tree.find("rt_info/nncf")) is not None:  # lists every layer that it left alone
        tree.find("rt_info").remove(calibration)  # type: ignore[union-attr]
    ElementTree.indent(tree, space="")  # spaces are a third of the file
    tree.write(path, encoding="utf-8", xml_declaration=True)


# ------------------------------------------------------------------ ONNX
class _OnnxDecoder(nn.Module):
    """Both steps of decoding in one graph: embedding (1,HW,256), boxes (N,4) -> logits, iou."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.box_tokens, self.box_decoder = BoxTokens(model), BoxDecoder(model)

    def forward(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return self.box_decoder(self.box_tokens(boxes), embedding, (self.box_decoder.side, self.box_decoder.side))


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
    _export(_OnnxDecoder(network), decoder_inputs, ["logits", "iou"], folder / "decoder.onnx", free)


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
            opset_version=20,  # the first with Gelu as one operator
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
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    sizes: list[int] = []  # of the int8 matrices
    with tempfile.TemporaryDirectory(prefix="graysam_onnx_") as temporary:
        export_onnx(model, Path(temporary))
        for name in ("encoder.onnx", "decoder.onnx"):
            graph = onnx.load(Path(temporary) / name)
            add_pre_process_metadata(graph)  # torch's exporter has inferred the shapes and folded constants
            quantize_dynamic(graph, folder / name, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
            quantized = onnx.load(folder / name).graph
            constants = {tensor.name: tensor for tensor in quantized.initializer}
            products = [node for node in quantized.node if node.op_type == "MatMulInteger"]
            sizes += [onnx.numpy_helper.to_array(constants[node.input[1]]).size for node in products]
    layers = {name: model.get_submodule(name) for name in graph_layers(model)}
    expected = {name: layer.weight.numel() for name, layer in layers.items() if not isinstance(layer, nn.Conv2d)}  # type: ignore[operator]
    if sorted(sizes) != sorted(expected.values()):  # by size, as the graphs do not name layers
        raise ValueError(f"ONNX Runtime quantized {len(sizes)} matrices where the model has {len(expected)}")
    return frozenset(expected)
