"""SAM's two-way transformer between prompt tokens and image cells."""

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


class TokenMlp(nn.Module):
    """Two linear layers with ReLU between, width kept: (..., dim) -> (..., dim)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.relu(self.lin1(x)))


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
        self.mlp = TokenMlp(dim, mlp_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample_rate)

    def attend_to_themselves(self, tokens: Tensor, token_pe: Tensor) -> Tensor:
        """Let the tokens (B,T,C) attend to each other; token_pe has their shape, and the first block leaves it out."""
        if self.first:
            return self.norm1(self.self_attn(tokens, tokens, tokens))
        q = tokens + token_pe
        return self.norm1(tokens + self.self_attn(q, q, tokens))

    def forward(self, tokens: Tensor, cells: Tensor, token_pe: Tensor, cell_pe: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.attend_to_themselves(tokens, token_pe)
        placed_cells = cells + cell_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, placed_cells, cells))
        tokens = self.norm3(tokens + self.mlp(tokens))
        cells = self.norm4(cells + self.cross_attn_image_to_token(placed_cells, tokens + token_pe, tokens))
        return tokens, cells


class TwoWayTransformer(nn.Module):
    """Stack of two-way blocks and a last attention from tokens to image.

    Args:
        depth, dim, num_heads, mlp_dim: as the names say; downsample_rate: narrowing inside cross-attention.

    Shape: cells (B,HW,dim), cell_pe (1,HW,dim), tokens (B,T,dim) -> tokens (B,T,dim), cells (B,HW,dim).
    Source: SAM (Kirillov et al. 2023) `modeling/transformer.py`.
    """

    def __init__(self, *, depth: int, dim: int, num_heads: int, mlp_dim: int, downsample_rate: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                TwoWayBlock(
                    dim=dim,
                    num_heads=num_heads,
                    mlp_dim=mlp_dim,
                    downsample_rate=downsample_rate,
                    first=i == 0,
                )
                for i in range(depth)
            ]
        )
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, cells: Tensor, cell_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        token_pe = tokens  # the prompts themselves place the tokens, in every layer
        for layer in self.layers:
            tokens, cells = layer(tokens, cells, token_pe, cell_pe)
        attended = self.final_attn_token_to_image(tokens + token_pe, cells + cell_pe, cells)
        return self.norm_final_attn(tokens + attended), cells
