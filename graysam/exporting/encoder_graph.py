"""The image encoder rewritten for inference: a torch module that is converted to a graph, never trained.

Its arithmetic is rearranged, not approximated: embeddings agree with the Sam's to rounding.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graysam.models.image_encoders import EfficientVitSamEncoder, SamNeck, bicubic_matrix
from graysam.models.sam import Sam

FEATURE_STRIDES = (32, 16, 8)  # of the maps that EfficientViT-SAM's neck fuses, coarsest first


class ImageEncoder(nn.Module):
    """The image encoder with its last LayerNorm over embedding tokens: (1,3,S,S) -> (1,HW,256), channels last.

    The decoder takes tokens as rows, and so does a LayerNorm over channels: no map is transposed on the way. The Sam
    stays as it is; its weights are shared, not copied.
    """

    def __init__(self, model: Sam) -> None:
        super().__init__()
        weights = (*model.image_encoder.parameters(), *model.image_encoder.buffers())
        self.encoder = copy.deepcopy(model.image_encoder, {id(tensor): tensor for tensor in weights})
        last: nn.Module = self.encoder.embedding_norm  # type: ignore[assignment]
        owner = next(module for module in self.encoder.modules() if last in module.children())
        name = next(name for name, child in owner.named_children() if child is last)
        setattr(owner, name, nn.Identity())
        self.norm: nn.LayerNorm = last  # type: ignore[assignment]
        if isinstance(self.encoder, EfficientVitSamEncoder):
            sides = [model.prompt_encoder.input_size // stride for stride in FEATURE_STRIDES]
            self.encoder.neck = _NeckByProducts(self.encoder.neck, sides)  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        norm = self.norm
        tokens = self.encoder(images).flatten(2).transpose(1, 2)
        return F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class _NeckByProducts(nn.Module):
    """SamNeck with its bicubic upsampling as matrix products, which also add the three maps: same shapes, same values.

    Upsampling is linear and the same along rows and columns. Every map is widened first; then one product over all
    rows of all maps makes their heights equal and adds them.
    """

    along_columns: Tensor

    def __init__(self, neck: SamNeck, sides: Sequence[int]) -> None:
        super().__init__()
        self.neck = neck
        matrices = [bicubic_matrix(side, neck.embedding_size) for side in sides]
        # Stored, since OpenVINO would keep a matrix computed from constants, and its products, in float32.
        self.along_rows = nn.ParameterList([nn.Parameter(matrix, requires_grad=False) for matrix in matrices])
        self.register_buffer("along_columns", torch.cat(matrices, dim=1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        wide = [
            matrix @ lateral(feature).permute(0, 2, 3, 1)  # channels last, as convolutions leave them in memory
            for matrix, lateral, feature in zip(self.along_rows, self.neck.laterals, features, strict=True)
        ]
        rows = torch.cat(wide, dim=1).flatten(2)
        fused = (self.along_columns @ rows).unflatten(2, (self.neck.embedding_size, -1)).permute(0, 3, 1, 2)
        return self.neck.head(self.neck.blocks(fused))
