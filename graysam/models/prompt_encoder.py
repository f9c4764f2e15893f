"""SAM's prompt encoder: boxes, points and masks as tokens and a dense map."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class RandomPositionEncoding(nn.Module):
    """Position encoding by random spatial frequencies: (..., 2) x,y in [0,1] -> (..., 2 * features)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, coords: Tensor) -> Tensor:
        # Sums of products, not `@`: autocast would run a matrix product in bfloat16 and blur the positions.
        frequencies = self.positional_encoding_gaussian_matrix
        centred = 2 * coords.to(frequencies.dtype) - 1
        angles = 2 * math.pi * (centred[..., :1] * frequencies[0] + centred[..., 1:] * frequencies[1])
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Turn prompts on the image grid into sparse tokens and a dense embedding.

    Coordinates are pixels of the padded square input (the 256 grid); 0.5 is added and the sum divided by the
    grid's side. A box gives two corner tokens (embeddings 2 and 3) and nothing else; points without a box get
    one not-a-point token at the end; a mask goes through three convolutions to the embedding's grid.

    Args:
        embedding_dim: channels of tokens and of the dense map.
        embedding_size: side of the dense map.
        input_size: side of the input grid in pixels.
        mask_channels: width of the mask branch.

    Source: SAM (Kirillov et al. 2023) `modeling/prompt_encoder.py`, as used by MedSAM and LiteMedSAM.
    """

    def __init__(self, *, embedding_dim: int, embedding_size: int, input_size: int, mask_channels: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.embedding_size = embedding_size
        self.input_size = input_size
        self.pe_layer = RandomPositionEncoding(embedding_dim // 2)
        self.point_embeddings = nn.ModuleList([nn.Embedding(1, embedding_dim) for _ in range(4)])
        self.not_a_point_embed = nn.Embedding(1, embedding_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels, eps=1e-6),
            nn.GELU(),
            nn.Conv2d(mask_channels, embedding_dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, embedding_dim)

    def dense_position_encoding(self) -> Tensor:
        """Return the position encoding of the embedding tokens, (1, embedding_dim, size, size)."""
        frequencies = self.pe_layer.positional_encoding_gaussian_matrix
        centres = torch.arange(self.embedding_size, device=frequencies.device, dtype=frequencies.dtype) + 0.5
        centres = centres / self.embedding_size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.pe_layer(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]

    def forward(
        self, *, boxes: Tensor | None = None, points: tuple[Tensor, Tensor] | None = None, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode one prompt set an object.

        Args:
            boxes: (N,4) float x_min,y_min,x_max,y_max on the input grid, or None.
            points: ((N,P,2) float x,y on the input grid, (N,P) int labels: 1 object, 0 background, -1 none), or None.
            masks: (N,1,4*size,4*size) float logits, or None.

        Returns:
            sparse (N,T,dim), and dense (N,dim,size,size) - or (1,dim,size,size) without masks, where it is the
            same for every object. Without any prompt, sparse is (1,0,dim).
        """
        sparse: list[Tensor] = []
        kinds: list[Any] = [embedding.weight for embedding in self.point_embeddings]  # background, object, 2 corners
        if points is not None:
            coords, labels = points
            encoded = self.pe_layer((coords + 0.5) / self.input_size)
            if boxes is None:
                encoded, labels = F.pad(encoded, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
            labels = labels[..., None]
            encoded = torch.where(labels == -1, self.not_a_point_embed.weight, encoded)
            sparse.append(encoded + (labels == 0) * kinds[0] + (labels == 1) * kinds[1])
        if boxes is not None:
            corners = (boxes.reshape(-1, 2, 2) + 0.5) / self.input_size
            sparse.append(self.pe_layer(corners) + torch.cat(kinds[2:]))
        weight = self.no_mask_embed.weight
        tokens = torch.cat(sparse, dim=1) if sparse else weight.new_zeros(1, 0, self.embedding_dim)
        if masks is not None:
            return tokens, self.mask_downscaling(masks)
        size = self.embedding_size
        return tokens, weight.reshape(1, -1, 1, 1).expand(1, self.embedding_dim, size, size)
