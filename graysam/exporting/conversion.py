"""From a Sam to OpenVINO graphs; constants are computed here, not at every start on a laptop."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graysam.exporting.decoder_graph import BoxDecoder, BoxTokens
from graysam.exporting.encoder_graph import ImageEncoder
from graysam.inference.openvino_core import disable_telemetry
from graysam.models.sam import Sam, inference_copy

disable_telemetry()  # before OpenVINO's import, which reports itself

import openvino as ov  # noqa: E402
from openvino.preprocess import PrePostProcessor  # noqa: E402


def convert(model: Sam, size: int, *, half_precision: bool) -> dict[str, ov.Model]:
    """Convert a model for one image and any number of boxes.

    Args:
        model: float32, left as it is.
        size: side S of its square input in pixels.
        half_precision: whether embeddings are float16 between the graphs, which halves their memory; for graphs that
            compute in bfloat16 or less anyway.

    Returns:
        `encoder` (images -> embedding), `box_tokens` (boxes -> tokens), `box_decoder` (tokens, embedding, valid_size ->
        logits, iou); see `graysam.exporting.encoder_graph` and `graysam.exporting.decoder_graph`.
    """
    network = inference_copy(model)
    embedding = torch.zeros(1, network.prompt_encoder.embedding_size**2, network.prompt_encoder.embedding_dim)
    boxes = torch.zeros(2, 4)
    box_tokens = BoxTokens(network).eval()
    with torch.inference_mode():
        tokens = box_tokens(boxes)
    decoder_inputs = {"tokens": tokens, "embedding": embedding, "valid_size": torch.tensor([60, 61])}
    graphs = {
        "encoder": _trace(ImageEncoder(network), {"images": torch.zeros(1, 3, size, size)}, ["embedding"]),
        "box_tokens": _trace(box_tokens, {"boxes": boxes}, ["tokens"], free=["boxes"]),
        "box_decoder": _trace(BoxDecoder(network), decoder_inputs, ["logits", "iou"], free=["tokens"]),
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


def convert_plain(model: Sam, size: int) -> dict[str, ov.Model]:
    """Convert a model as it is, for one image and one box, as other projects do; a baseline for comparison.

    Returns:
        `encoder` (images -> embedding (1,256,64,64)) and `decoder` (embedding, boxes (1,4) -> logits, iou).
    """
    network = inference_copy(model)
    prompts = network.prompt_encoder
    embedding = torch.zeros(1, prompts.embedding_dim, prompts.embedding_size, prompts.embedding_size)
    return {
        "encoder": _trace(network.image_encoder, {"images": torch.zeros(1, 3, size, size)}, ["embedding"]),
        "decoder": _trace(_OneBox(network), {"embedding": embedding, "boxes": torch.zeros(1, 4)}, ["logits", "iou"]),
    }


def _trace(module: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], free: Sequence[str] = ()) -> ov.Model:
    """Trace a module with named examples as inputs, whose shapes are fixed but for the first dimension of `free`."""
    module = module.eval().requires_grad_(False)
    examples = tuple(inputs.values())
    with torch.inference_mode(), warnings.catch_warnings():
        # OpenVINO's own way to read a module; without it, ov.convert_model raises an error.
        warnings.filterwarnings("ignore", r"`torch\.jit")
        # Sizes that become constants, for the shapes set below.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, examples, check_trace=False)  # tests compare the masks
        graph = ov.convert_model(traced, example_input=examples)
    shapes = [[-1 if name in free else len(example), *example.shape[1:]] for name, example in inputs.items()]
    graph.reshape({index: ov.PartialShape(shape) for index, shape in enumerate(shapes)})
    for port, name in zip([*graph.inputs, *graph.outputs], [*inputs, *outputs], strict=True):
        port.get_tensor().set_names({name})
    return graph
