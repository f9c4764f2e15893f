"""SAM's heads: the prompt encoder, and the mask decoder with its two-way transformer."""

import math
from collections import OrderedDict
from itertools import pairwise
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


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than the model's.

    Shape: queries (B,Q,dim), keys and values (B,K,dim) -> (B,Q,dim).
    """

    def __init__(self, dim: int, num_heads: int, downsample_rate: int) -> None:
        super().__init__()
        inner = dim // downsample_rate
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = self._split(self.q_proj(q)), self._split(self.k_proj(k)), self._split(self.v_proj(v))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class TwoWayBlock(nn.Module):
    """Self-attention of tokens, tokens to image, MLP, image to tokens, each with a residual and LayerNorm.

    In the first block the tokens attend to themselves without position and without a residual.
    """

    def __init__(self, *, dim: int, num_heads: int, mlp_dim: int, downsample_rate: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads, 1)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(OrderedDict(lin1=nn.Linear(dim, mlp_dim), act=nn.ReLU(), lin2=nn.Linear(mlp_dim, dim)))
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate)

    def self_attention(self, tokens: Tensor, token_pe: Tensor) -> Tensor:
        """Return the tokens (B,T,C) after self-attention; token_pe has their shape."""
        if self.first:
            return self.norm1(self.self_attn(tokens, tokens, tokens))
        q = tokens + token_pe
        return self.norm1(tokens + self.self_attn(q, q, tokens))

    def forward(
        self, tokens: Tensor, embedding: Tensor, token_pe: Tensor, embedding_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        tokens = self.self_attention(tokens, token_pe)
        placed = embedding + embedding_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, placed, embedding))
        tokens = self.norm3(tokens + self.mlp(tokens))
        embedding = self.norm4(embedding + self.cross_attn_image_to_token(placed, tokens + token_pe, tokens))
        return tokens, embedding


class TwoWayTransformer(nn.Module):
    """Stack of two-way blocks and a last attention from tokens to image.

    Args:
        depth, dim, num_heads, mlp_dim: as the names say; downsample_rate: narrowing inside cross-attention.

    Shape: embedding (B,HW,dim), embedding_pe (1,HW,dim), tokens (B,T,dim) -> tokens (B,T,dim), embedding (B,HW,dim).
    Source: SAM (Kirillov et al. 2023) `modeling/transformer.py`.
    """

    def __init__(self, *, depth: int, dim: int, num_heads: int, mlp_dim: int, downsample_rate: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim=dim, num_heads=num_heads, mlp_dim=mlp_dim, downsample_rate=downsample_rate, first=i == 0)
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, embedding: Tensor, embedding_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        token_pe = tokens  # the prompts themselves place the tokens, in every layer
        for layer in self.layers:
            tokens, embedding = layer(tokens, embedding, token_pe, embedding_pe)
        attended = self.final_attn_token_to_image(tokens + token_pe, embedding + embedding_pe, embedding)
        return self.norm_final_attn(tokens + attended), embedding


class Mlp(nn.Module):
    """Linear layers with ReLU between them: (..., in_dim) -> (..., out_dim)."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, depth: int) -> None:
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(dims)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Predict masks for prompts on one or several images.

    Tokens are [IoU, mask 0..3, prompts]. With `multimask` off only mask token 0 is decoded (the way of every
    published box-prompted medical model), with it on tokens 1 to 3.

    Args:
        dim: width of tokens and embedding.
        num_multimask: masks of the ambiguous mode (3).
        mlp_depth, mlp_hidden: of the IoU head and the hypernetworks (hypernetworks keep `dim` as hidden width).
        transformer: a TwoWayTransformer of the same width.

    Source: SAM (Kirillov et al. 2023) `modeling/mask_decoder.py`; LiteMedSAM takes B images with B prompts.
    """

    def __init__(
        self, *, dim: int, num_multimask: int, mlp_depth: int, mlp_hidden: int, transformer: TwoWayTransformer
    ) -> None:
        super().__init__()
        num_masks = num_multimask + 1
        self.transformer = transformer
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(num_masks, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList([Mlp(dim, dim, dim // 8, mlp_depth) for _ in range(num_masks)])
        self.iou_prediction_head = Mlp(dim, mlp_hidden, num_masks, mlp_depth)

    def forward(
        self, *, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Decode N prompts.

        Args:
            embedding: (B,dim,S,S); N must be a multiple of B, and prompts of one image stand together.
            position: (1,dim,S,S) position encoding of the embedding tokens.
            sparse: (N,T,dim) prompt tokens.
            dense: (1|N,dim,S,S) dense prompt.
            multimask: whether to return masks 1..3 instead of mask 0.

        Returns:
            logits (N,M,4S,4S) and predicted IoU (N,M), M = 1 or 3. N = 0 gives empty tensors.
        """
        fixed = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(sparse), -1, -1)
        tokens = torch.cat([fixed, sparse], dim=1)
        repeats = len(tokens) // len(embedding)
        maps = (embedding.repeat_interleave(repeats, dim=0) if repeats != 1 else embedding) + dense
        size = maps.shape[-2:]
        tokens, maps = self.transformer(maps.flatten(2).transpose(1, 2), position.flatten(2).transpose(1, 2), tokens)
        upscaled = self.output_upscaling(maps.transpose(1, 2).unflatten(2, size))
        wanted = range(1, self.mask_tokens.num_embeddings) if multimask else range(1)
        weights = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in wanted], dim=1)
        logits = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return logits, self.iou_prediction_head(tokens[:, 0])[:, wanted.start : wanted.stop]
