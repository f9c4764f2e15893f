"""The neck that fuses EfficientViT's three coarsest stages into SAM's 64x64 embedding."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import GELUTanh, LayerNorm2d
from timm.models.efficientvit_mit import ConvNormAct, FusedMBConv, ResidualBlock
from torch import Tensor, nn

NORM_EPS = 1e-6  # EfficientViT-SAM's value for batch norm and LayerNorm2d; torch's 1e-5 shifts the embedding by 7e-5


class SamNeck(nn.Module):
    """Bring feature maps of strides 32, 16 and 8 onto one grid, add them, refine them.

    Each map goes through a 1x1 convolution with batch norm and then *bicubic* upsampling to `embedding_size`,
    whatever the input's size (bilinear upsampling would change the embedding by 0.35).

    Args:
        in_channels: channels of the maps, coarsest first.
        width: channels inside and of the output.
        depth: residual blocks (L0: 4, L1: 8, L2: 12).
        expand_ratio: widening inside a block.
        embedding_size: side of the output grid.

    Shape: list of (B, in_channels[i], h_i, w_i) -> (B, width, embedding_size, embedding_size).
    Source: EfficientViT-SAM (Zhang et al. 2024), `models/efficientvit/sam.py` of the authors' code.
    """

    def __init__(
        self, *, in_channels: Sequence[int], width: int, depth: int, expand_ratio: float, embedding_size: int
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        norm = partial(nn.BatchNorm2d, eps=NORM_EPS)
        self.laterals = nn.ModuleList(
            [ConvNormAct(channels, width, 1, norm_layer=norm, act_layer=None) for channels in in_channels]
        )
        block = partial(
            FusedMBConv, width, width, expand_ratio=expand_ratio, norm_layer=norm, act_layer=(GELUTanh, None)
        )
        self.blocks = nn.Sequential(*[ResidualBlock(block(), nn.Identity()) for _ in range(depth)])
        self.head = nn.Conv2d(width, width, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = (self.embedding_size, self.embedding_size)
        maps = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        if self.training:  # by matrix products, which take a seventh of a training step less on a CPU
            maps = [upsample(x, *size) for x in maps]
        else:
            maps = [F.interpolate(x, size=size, mode="bicubic", align_corners=False) for x in maps]
        return self.head(self.blocks(sum(maps[1:], start=maps[0])))


def upsample(maps: Tensor, height: int, width: int) -> Tensor:
    """Upsample bicubically by two matrix products: (B,C,h,w) -> (B,C,height,width), computed in float32."""
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = (
            bicubic_matrix(given, wanted).to(maps.device)
            for given, wanted in zip(maps.shape[2:], (height, width), strict=True)
        )
        wide = columns @ maps.float().permute(0, 2, 3, 1)  # channels last, as convolutions leave them in memory
        high = (rows @ wide.flatten(2)).unflatten(2, (width, -1))
        return high.permute(0, 3, 1, 2).to(maps.dtype)


def bicubic_matrix(given: int, wanted: int) -> Tensor:
    """Return the float32 matrix (wanted, given) that torch's bicubic upsampling multiplies a column with."""
    columns = torch.eye(given)[None, None]
    return F.interpolate(columns, size=(wanted, given), mode="bicubic", align_corners=False)[0, 0]


def tiny_vit_neck(in_channels: int, width: int) -> nn.Sequential:
    """Return SAM's plain neck as LiteMedSAM uses it: (B,in_channels,64,64) -> (B,width,64,64)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 1, bias=False),
        LayerNorm2d(width, eps=NORM_EPS),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        LayerNorm2d(width, eps=NORM_EPS),
    )
