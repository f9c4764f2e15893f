"""The whole model: image encoder, prompt encoder and mask decoder."""

import copy
from typing import Any

from torch import Tensor, nn

from graysam.models.heads import MaskDecoder, PromptEncoder


class Sam(nn.Module):
    """Box-prompted segmentation of images on the square input grid.

    Args:
        image_encoder: (B,3,256,256) -> (B,256,64,64).
        prompt_encoder, mask_decoder: SAM's heads of the same width.
    """

    def __init__(self, *, image_encoder: nn.Module, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder

    def encode(self, images: Tensor) -> Tensor:
        """Embed images: (B,3,256,256) float in [0,1] -> (B,256,64,64)."""
        return self.image_encoder(images)

    def decode(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Segment what N boxes on each of B embedded images hold.

        Args:
            embedding: (B,256,64,64).
            boxes: (B,N,4) float x_min,y_min,x_max,y_max on the 256 grid.

        Returns:
            logits (B,N,256,256) and predicted IoU (B,N).
        """
        batch, count = boxes.shape[:2]
        sparse, dense = self.prompt_encoder(boxes=boxes.reshape(-1, 4))
        logits, iou = self.mask_decoder(
            embedding=embedding,
            position=self.prompt_encoder.dense_position_encoding(),
            sparse=sparse,
            dense=dense,
        )
        return logits.reshape(batch, count, *logits.shape[-2:]), iou.reshape(batch, count)

    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Embed and segment: images (B,3,256,256), boxes (B,N,4) -> logits (B,N,256,256), IoU (B,N)."""
        return self.decode(self.encode(images), boxes)


def inference_copy(model: Sam) -> Sam:
    """Copy a model to the CPU, in evaluation mode and without gradients.

    TinyViT caches its attention biases in the first evaluation. The copy starts without caches: they may be older than
    the weights, and one that carries a gradient cannot be copied.
    """
    caches = [getattr(module, "attention_bias_cache", None) for module in model.modules()]
    fresh: dict[int, Any] = {id(cache): {} for cache in caches if cache is not None}
    return copy.deepcopy(model, fresh).cpu().eval().requires_grad_(False)
