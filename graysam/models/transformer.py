"""SAM's two-way transformer between prompt tokens and embedding tokens."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn


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
