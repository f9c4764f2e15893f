"""From a Sam to OpenVINO graphs; what can be computed here is not computed again at the laptop."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graysam.exporting.decoder_graph import BoxDecoder, BoxTokens
from graysam.exporting.encoder_graph import ImageEncoder
from graysam.exporting.method import private_copy
from graysam.inference.openvino_core import disable_telemetry
from graysam.models.sam import Sam

disable_telemetry()  # before OpenVINO's import, which reports itself

import openvino as ov  # noqa: E402
from openvino.preprocess import PrePostProcessor  # noqa: E402


def convert(model: Sam, size: int, *, half_precision: bool) -> dict[str, ov.Model]:
    """Convert a model for one image and any number of boxes.

    Args:
        model: float32, left as it is; size: side of its square input in pixels.
        half_precision: whether embeddings are handed on as float16, which halves their memory; for graphs that compute
            in bfloat16 or less anyway.

    Returns:
        `encoder` (images -> embedding), `box_tokens` (boxes -> tokens), `box_decoder` (tokens, embedding, valid_size ->
        logits, iou); see `graysam.exporting.encoder_graph` and `graysam.exporting.decoder_graph`.
    """
    network = private_copy(model)
    cells, dim = network.prompt_encoder.embedding_size**2, network.prompt_encoder.embedding_dim
    embedding = torch.zeros(1, cells, dim)
    boxes = torch.zeros(2, 4)
    tokens_of = BoxTokens(network).eval()
    with torch.inference_mode():
        tokens = tokens_of(boxes)
    graphs = {
        "encoder": _trace(
            ImageEncoder(network),
            {"images": torch.zeros(1, 3, size, size)},
            {"images": [1, 3, size, size]},
            ["embedding"],
        ),
        "box_tokens": _trace(tokens_of, {"boxes": boxes}, {"boxes": [-1, 4]}, ["tokens"]),
        "box_decoder": _trace(
            BoxDecoder(network),
            {"tokens": tokens, "embedding": embedding, "valid_size": torch.tensor([60, 61])},
            {"tokens": [-1, *tokens.shape[1:]], "embedding": [1, cells, dim], "valid_size": [2]},
            ["logits", "iou"],
        ),
    }
    if half_precision:
        handed_on = {"embedding": ov.Type.f16}
        graphs["encoder"] = _with_types(graphs["encoder"], outputs=handed_on)
        graphs["box_decoder"] = _with_types(graphs["box_decoder"], inputs=handed_on)
    return graphs


class _OneBox(nn.Module):
    """A Sam's own decoder for one image and one box."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.model = model

    def forward(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        logits, iou = self.model.decode(embedding, boxes[None])
        return logits[0], iou[0]


def convert_plain(model: Sam, size: int) -> dict[str, ov.Model]:
    """Convert a model as it stands, for one image and one box, the way others do it; to compare with.

    Returns:
        `encoder` (images -> embedding (1,256,64,64)) and `decoder` (embedding, boxes (1,4) -> logits, iou).
    """
    network = private_copy(model)
    prompts = network.prompt_encoder
    embedding = torch.zeros(1, prompts.embedding_dim, prompts.embedding_size, prompts.embedding_size)
    images, boxes = torch.zeros(1, 3, size, size), torch.zeros(1, 4)
    return {
        "encoder": _trace(network.image_encoder, {"images": images}, {"images": list(images.shape)}, ["embedding"]),
        "decoder": _trace(
            _OneBox(network),
            {"embedding": embedding, "boxes": boxes},
            {"embedding": list(embedding.shape), "boxes": [1, 4]},
            ["logits", "iou"],
        ),
    }


def _trace(module: nn.Module, examples: Mapping[str, Tensor], shapes: Mapping[str, Any], outputs: Any) -> ov.Model:
    module = module.eval().requires_grad_(False)
    with torch.inference_mode(), warnings.catch_warnings():
        # OpenVINO's own way to read a module; its going would be an error of ov.convert_model, not a warning.
        warnings.filterwarnings("ignore", r"`torch\.jit")
        # Sizes that become constants; the shapes given below are those of the one way the graph is used.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, tuple(examples.values()), check_trace=False)  # tests compare the masks
        graph = ov.convert_model(traced, example_input=tuple(examples.values()))
    graph.reshape({index: ov.PartialShape(shapes[name]) for index, name in enumerate(examples)})
    for port, name in zip(graph.inputs, examples, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    return graph


def _with_types(
    graph: ov.Model, *, inputs: Mapping[str, ov.Type] | None = None, outputs: Mapping[str, ov.Type] | None = None
) -> ov.Model:
    """Return the graph with other element types at its border; inside, it computes as before."""
    steps = PrePostProcessor(graph)
    for name, kind in (inputs or {}).items():
        steps.input(name).tensor().set_element_type(kind)
    for name, kind in (outputs or {}).items():
        steps.output(name).tensor().set_element_type(kind)
    return steps.build()
