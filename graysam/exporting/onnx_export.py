"""From a Sam to two ONNX graphs, for engines other than OpenVINO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graysam.exporting.decoder_graph import BoxDecoder, BoxTokens
from graysam.exporting.encoder_graph import ImageEncoder
from graysam.exporting.method import private_copy
from graysam.models.sam import Sam

OPSET = 20  # the first with Gelu as one operator
_LARGEST_MODEL = 1 << 31  # bytes of one protobuf message; larger weights lie in a file of their own


class _Decoder(nn.Module):
    """What is done for an image and its boxes, in one graph: embedding (1,HW,256), boxes (N,4) -> logits, iou."""

    def __init__(self, model: Sam) -> None:
        super().__init__()
        self.box_tokens, self.box_decoder = BoxTokens(model), BoxDecoder(model)

    def forward(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return self.box_decoder(self.box_tokens(boxes), embedding)


def export_onnx(model: Sam, size: int, folder: Path) -> None:
    """Write `encoder.onnx` and `decoder.onnx` into a folder, weights inside.

    The encoder takes images float32 (1,3,S,S) and gives an embedding (1,HW,256), channels last. The decoder takes that
    and boxes float32 (N,4) on the S grid, N free, and gives logits (N,S,S) and the predicted IoU (N,).

    Args:
        model: float32, left as it is; size: side S of its square input in pixels; folder: it exists.
    """
    network = private_copy(model)
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
        module(*examples.values())  # TinyViT keeps biases of its first evaluation, which cannot be the exporter's
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
