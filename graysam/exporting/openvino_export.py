"""OpenVINO graphs of a Sam, in memory and as files; constants are computed here, not at every start on a laptop."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn

from graysam.exporting.graphs import BoxDecoder, BoxTokens, ImageEncoder
from graysam.inference.openvino_core import disable_telemetry
from graysam.models.sam import Sam, inference_copy

disable_telemetry()  # before OpenVINO's import, which reports itself

import openvino as ov  # noqa: E402
import openvino.opset13 as op  # noqa: E402
from openvino.preprocess import PrePostProcessor  # noqa: E402

SMALL = 64  # constants of so many elements or fewer are not stored in half precision


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
    box_tokens = BoxTokens(network).eval()
    with torch.inference_mode():
        tokens = box_tokens(boxes)
    decoder_inputs = {"tokens": tokens, "embedding": embedding, "valid_size": torch.tensor([60, 61])}
    graphs = {
        "encoder": _trace(ImageEncoder(network), {"images": images}, ["embedding"]),
        "box_tokens": _trace(box_tokens, {"boxes": boxes}, ["tokens"], free="boxes"),
        "box_decoder": _trace(BoxDecoder(network), decoder_inputs, ["logits", "iou"], free="tokens"),
    }
    if half_precision:
        steps = PrePostProcessor(graphs["encoder"])
        steps.output("embedding").tensor().set_element_type(ov.Type.f16)
        graphs["encoder"] = steps.build()
        steps = PrePostProcessor(graphs["box_decoder"])
        steps.input("embedding").tensor().set_element_type(ov.Type.f16)
        graphs["box_decoder"] = steps.build()
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
        if data.size <= SMALL or np.abs(data).max() > np.finfo(np.float16).max:
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
            info = layer.find("rt_info")
            if info is None:
                info = ElementTree.SubElement(layer, "rt_info")
            ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
    tree.write(path, encoding="utf-8", xml_declaration=True)
