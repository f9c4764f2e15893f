"""A Sam rewritten for inference: torch modules that are converted to graphs, never trained.

Their arithmetic is rearranged, not approximated: embeddings and float32 masks agree with the Sam's to rounding.

- A box brings 7 prompt tokens to the 4096 embedding tokens of an image. Projecting these costs 256 x 128 products each;
  instead the projection is multiplied into the few prompt tokens, and scores and sums are products of the embedding
  tokens with 56 vectors (8 heads x 7 tokens). The key's bias cancels in the softmax over embedding tokens, the value's
  bias passes it unchanged. So no projection is left that all boxes of an image could share (docs/results/runtime.md has
  the cost of sharing them).
- Only the IoU token and mask token 0 take part in the last attention; the other masks' heads are dropped.
- A transposed convolution of stride 2 and size 2 is one matrix product per token; pixels are put in order at the end.

Source of the arithmetic: SAM (Kirillov et al. 2023) `modeling/transformer.py`, `modeling/mask_decoder.py`.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graysam.models.cost import LAYERS
from graysam.models.heads import Attention
from graysam.models.image_encoders import EfficientVitSamEncoder, SamNeck, TinyVitSamEncoder, bicubic_matrix
from graysam.models.sam import Sam


class ImageEncoder(nn.Module):
    """The image encoder with its last LayerNorm over embedding tokens: (1,3,S,S) -> (1,HW,256), channels last.

    The decoder takes tokens as rows, and so does a LayerNorm over channels: no map is transposed on the way. The Sam
    stays as it is; its weights are shared, not copied.
    """

    def __init__(self, model: Sam) -> None:
        super().__init__()
        weights = (*model.image_encoder.parameters(), *model.image_encoder.buffers())
        self.encoder = copy.deepcopy(model.image_encoder, {id(tensor): tensor for tensor in weights})
        self.norm: nn.LayerNorm = self.encoder.embedding_norm  # type: ignore[assignment]
        if isinstance(self.encoder, TinyVitSamEncoder):
            self.encoder.neck[3] = nn.Identity()
        else:
            self.encoder.norm = nn.Identity()
        if isinstance(self.encoder, EfficientVitSamEncoder):
            sides = [model.prompt_encoder.input_size // stride for stride in (32, 16, 8)]  # of the maps, coarsest first
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


class BoxTokens(nn.Module):
    """Embed boxes: (N,4) float x_min, y_min, x_max, y_max on the input grid -> (N,7,256).

    It is a graph of its own because sines of positions need float32 where everything else takes less.
    """

    def __init__(self, model: Sam) -> None:
        super().__init__()
        decoder, prompts = model.mask_decoder, model.prompt_encoder
        self.prompts = prompts
        self.register_buffer("fixed", torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).detach()[None])

    def forward(self, boxes: Tensor) -> Tensor:
        sparse, _ = self.prompts(boxes=boxes)
        return torch.cat([self.fixed + 0 * sparse[:, :1], sparse], dim=1)  # the sum repeats the fixed ones N times


class _HeadFolding(nn.Module):
    """An Attention whose projections of embedding tokens are multiplied into the prompt tokens.

    With `mask` (heads, 1, inner), which keeps a head's own channels, (N,T,inner) becomes (N, heads * T, inner): one row
    per head and token, so that all heads are one matrix product.
    """

    mask: Tensor

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention
        inner, heads = attention.q_proj.out_features, attention.num_heads
        self.register_buffer("mask", torch.eye(heads).repeat_interleave(inner // heads, dim=1)[:, None])
        self.scale = (inner // heads) ** -0.5

    def spread(self, x: Tensor) -> Tensor:
        """Separate the heads: (N,T,inner) -> (N, heads * T, inner), zero in the other heads' channels."""
        return (x[:, None] * self.mask).flatten(1, 2)


class _TokensToImage(_HeadFolding):
    """Attention from prompt tokens to embedding tokens; keys and values are folded into the prompt tokens."""

    def forward(self, tokens: Tensor, placed: Tensor, image: Tensor) -> Tensor:
        """tokens (N,T,dim); embedding tokens with positions and without (1|N,HW,dim) -> (N,T,dim)."""
        attention = self.attention
        rows = self.spread(attention.q_proj(tokens) * self.scale) @ attention.k_proj.weight  # (N, heads*T, dim)
        weights = torch.softmax((placed @ rows.transpose(1, 2)).transpose(1, 2), dim=-1)
        values = (weights @ image) @ attention.v_proj.weight.T + attention.v_proj.bias  # (N, heads*T, inner)
        return attention.out_proj((values.unflatten(1, (attention.num_heads, -1)) * self.mask).sum(dim=1))


class _ImageToTokens(_HeadFolding):
    """Attention from embedding tokens to prompt tokens; queries and output projection are folded into the latter.

    Scores are stored with prompt tokens first, (N, heads * T, HW): a softmax over 7 neighbours in memory would cost
    more than the products around it.
    """

    def forward(self, placed: Tensor, tokens: Tensor, values: Tensor, image: Tensor) -> Tensor:
        """Embedding tokens (1|N,HW,dim), prompt tokens (N,T,dim) -> embedding tokens plus attention (N,HW,dim)."""
        attention = self.attention
        keys = self.spread(attention.k_proj(tokens) * self.scale)
        rows = keys @ attention.q_proj.weight
        shift = (keys * attention.q_proj.bias).sum(dim=-1, keepdim=True)
        scores = (placed @ rows.transpose(1, 2)).transpose(1, 2) + shift
        weights = torch.softmax(scores.unflatten(1, (attention.num_heads, -1)), dim=2).flatten(1, 2)
        # As a head's weights sum to 1, every head brings its part of the bias.
        spread = self.spread(attention.v_proj(values)) @ attention.out_proj.weight.T
        return weights.transpose(1, 2) @ (spread + attention.out_proj.bias / attention.num_heads) + image


class BoxDecoder(nn.Module):
    """Segment the objects in N boxes of one image.

    tokens (N,7,256) of `BoxTokens`, embedding (1,HW,256), and valid_size (2,) int64, the rows R and columns C of
    embedding tokens that the image covers on its padded square -> logits (N,4R,4C), predicted IoU (N,). Attention sees
    every token; but a mask is needed only where the image is, and upscaling works token by token.

    Both transposed convolutions of the upscaling are matrix products: `first` (dim,dim), whose columns are 4 pixels
    (y, x) of dim/4 channels, and `second` (dim/4,dim/2), 4 pixels of dim/8. The LayerNorm between subtracts a mean over
    channels, which is linear and already part of `first`.
    """

    dense: Tensor
    position: Tensor

    def __init__(self, model: Sam) -> None:
        super().__init__()
        decoder, prompts = model.mask_decoder, model.prompt_encoder
        self.side: int = prompts.embedding_size
        self.register_buffer("dense", prompts.no_mask_embed.weight.detach()[None])
        position = prompts.dense_position_encoding().detach().flatten(2).transpose(1, 2).contiguous()  # (1,HW,dim)
        self.register_buffer("position", position)
        self.blocks = decoder.transformer.layers
        blocks: list[Any] = list(self.blocks)
        self.to_image = nn.ModuleList([_TokensToImage(block.cross_attn_token_to_image) for block in blocks])
        self.to_tokens = nn.ModuleList([_ImageToTokens(block.cross_attn_image_to_token) for block in blocks])
        self.last_to_image = _TokensToImage(decoder.transformer.final_attn_token_to_image)
        self.last_norm = decoder.transformer.norm_final_attn
        self.mask_head = decoder.output_hypernetworks_mlps[0]
        self.iou_head = decoder.iou_prediction_head
        layers = decoder.output_upscaling  # convolution, LayerNorm2d, GELU, convolution, GELU
        weight, bias = _as_linear(layers[0])  # type: ignore[arg-type]
        self.first = nn.Parameter((weight - weight.mean(dim=2, keepdim=True)).flatten(1))
        self.first_bias = nn.Parameter((bias - bias.mean()).repeat(4))
        self.norm = layers[1]
        weight, bias = _as_linear(layers[3])  # type: ignore[arg-type]
        self.second, self.second_bias = nn.Parameter(weight.flatten(1)), nn.Parameter(bias.repeat(4))

    def forward(self, tokens: Tensor, embedding: Tensor, valid_size: Tensor | tuple[int, int]) -> tuple[Tensor, Tensor]:
        token_position = tokens
        image = embedding + self.dense
        placed = image + self.position
        block: Any
        for block, to_image, to_tokens in zip(self.blocks, self.to_image, self.to_tokens, strict=True):
            tokens = block.self_attention(tokens, token_position)
            tokens = block.norm2(tokens + to_image(tokens + token_position, placed, image))
            tokens = block.norm3(tokens + block.mlp(tokens))
            image = block.norm4(to_tokens(placed, tokens + token_position, tokens, image))
            placed = image + self.position
        chosen = (tokens + token_position)[:, :2]  # the IoU token and mask token 0
        tokens = self.last_norm(tokens[:, :2] + self.last_to_image(chosen, placed, image))
        valid = image.unflatten(1, (self.side, self.side))[:, : valid_size[0], : valid_size[1]]
        weights = self.mask_head(tokens[:, 1])
        x = (valid @ self.first + self.first_bias).unflatten(-1, (4, -1))
        variance = (x * x).mean(dim=-1, keepdim=True)
        x = F.gelu(x * torch.rsqrt(variance + self.norm.eps) * self.norm.weight + self.norm.bias)
        x = F.gelu(x.flatten(1, 3) @ self.second + self.second_bias)  # (N, RC*4, 4*32)
        x = x.unflatten(-1, (4, -1)).flatten(1, 2) @ weights[:, :, None]
        rows, columns = valid_size  # not the shape of `valid`: a ShapeOf there would keep all before it in float32
        x = x.reshape(-1, rows, columns, 2, 2, 2, 2)  # token's row, column; first upscaling's y, x; second's y, x
        logits = x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * rows, 4 * columns)
        return logits, self.iou_head(tokens[:, 0])[:, 0]


def _as_linear(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Return weight (C,4,C') and bias (C') of a 2x2 transposed convolution of stride 2; the 4 are pixels y, x."""
    return layer.weight.detach().permute(0, 2, 3, 1).flatten(1, 2), layer.bias.detach()  # type: ignore[union-attr]


def graph_layers(model: Sam) -> frozenset[str]:
    """Return the names of the layers that the exported graphs of a model multiply with; box prompts skip the others."""
    used = {id(weight) for graph in (ImageEncoder(model), BoxDecoder(model)) for weight in graph.parameters()}
    return frozenset(
        name
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS) and (id(layer.weight) in used or name.startswith("mask_decoder.output_upscaling."))
    )
