"""Image encoders: timm backbones with the stems, strides and constants that the published weights expect."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import GELUTanh, LayerNorm2d
from timm.models.efficientvit_mit import ConvNormAct, EfficientVitLarge, FusedMBConv, LiteMLA, ResidualBlock
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

LITE_MLA_EPS = 1e-15  # the authors' value; timm fixes 1e-5 and takes no argument
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
        # In training by matrix products, which take a seventh of a training step less on a CPU.
        resize = upsample if self.training else partial(F.interpolate, mode="bicubic", align_corners=False)
        laterals = zip(self.laterals, features, strict=True)
        maps = [resize(lateral(feature), size=self.embedding_size) for lateral, feature in laterals]
        return self.head(self.blocks(sum(maps[1:], start=maps[0])))


def upsample(maps: Tensor, size: int) -> Tensor:
    """Upsample bicubically by two matrix products: (B,C,h,w) -> (B,C,size,size), computed in float32."""
    with torch.autocast(maps.device.type, enabled=False):
        rows, columns = (bicubic_matrix(given, size).to(maps.device) for given in maps.shape[2:])
        wide = columns @ maps.float().permute(0, 2, 3, 1)  # channels last, as convolutions leave them in memory
        high = (rows @ wide.flatten(2)).unflatten(2, (size, -1))
        return high.permute(0, 3, 1, 2).to(maps.dtype)


def bicubic_matrix(given: int, wanted: int) -> Tensor:
    """Return the float32 matrix (wanted, given) that torch's bicubic upsampling multiplies a column with."""
    columns = torch.eye(given)[None, None]
    return F.interpolate(columns, size=(wanted, given), mode="bicubic", align_corners=False)[0, 0]


class EfficientVitSamEncoder(nn.Module):
    """EfficientViT-SAM's image encoder: backbone, neck and a final LayerNorm2d.

    Args:
        widths: channels of the stem and the four stages.
        depths: blocks of the stem and the four stages.
        neck_depth: residual blocks of the neck.
        neck_expand_ratio: widening inside a neck block.
        embedding_dim: channels of the embedding.
        embedding_size: side of the embedding's grid.

    Shape: (B,3,H,W) float, H and W multiples of 32 -> (B, embedding_dim, embedding_size, embedding_size).
    Source: EfficientViT-SAM (Zhang et al. 2024); the paper's section 2.2.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        neck_depth: int,
        neck_expand_ratio: float,
        embedding_dim: int,
        embedding_size: int,
    ) -> None:
        super().__init__()
        # timm indexes head_widths even without a classifier, so it gets a tiny one that is then dropped.
        self.backbone = EfficientVitLarge(
            widths=tuple(widths), depths=tuple(depths), head_widths=(16, 16), num_classes=0, norm_eps=NORM_EPS
        )
        self.backbone.head = nn.Identity()
        for module in self.backbone.modules():
            if isinstance(module, LiteMLA):
                module.eps = LITE_MLA_EPS
        self.neck = SamNeck(
            in_channels=tuple(widths)[:1:-1],
            width=embedding_dim,
            depth=neck_depth,
            expand_ratio=neck_expand_ratio,
            embedding_size=embedding_size,
        )
        self.norm = LayerNorm2d(embedding_dim, eps=NORM_EPS)

    @property
    def embedding_norm(self) -> nn.Module:
        """The last LayerNorm2d, which sets the scale of the embedding."""
        return self.norm

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone.forward_intermediates(images, indices=[1, 2, 3], intermediates_only=True)
        return self.norm(self.neck(features[::-1]))


class TinyVitSamEncoder(nn.Module):
    """LiteMedSAM's image encoder: TinyViT-5M at strides 1/2/4/4 and SAM's plain neck.

    LiteMedSAM embeds patches with 1x1 convolutions of stride 1 and keeps the stride of the last stage at 1,
    so 256 pixels become 256, 128, 64 and 64.

    Args:
        embed_dims, depths, num_heads, window_sizes: TinyViT's dimensions, one number a stage.
        embedding_dim: channels of the embedding.

    Shape: (B,3,256,256) float -> (B, embedding_dim, 64, 64).
    Source: LiteMedSAM's `tiny_vit_sam.py` (CVPR 2024 challenge baseline).
    """

    def __init__(
        self,
        *,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: Sequence[int],
        embedding_dim: int,
    ) -> None:
        super().__init__()
        self.backbone = TinyVit(
            embed_dims=tuple(embed_dims),
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_sizes=tuple(window_sizes),
            drop_path_rate=0.0,
            num_classes=0,
        )
        self.backbone.head = nn.Identity()
        patch = self.backbone.patch_embed
        patch.conv1.conv = nn.Conv2d(3, embed_dims[0] // 2, 1, bias=False)
        patch.conv2.conv = nn.Conv2d(embed_dims[0] // 2, embed_dims[0], 1, bias=False)
        self.backbone.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dims[-1], embedding_dim, 1, bias=False),
            LayerNorm2d(embedding_dim, eps=NORM_EPS),
            nn.Conv2d(embedding_dim, embedding_dim, 3, padding=1, bias=False),
            LayerNorm2d(embedding_dim, eps=NORM_EPS),
        )

    @property
    def embedding_norm(self) -> nn.Module:
        """The last LayerNorm2d, which sets the scale of the embedding."""
        return self.neck[3]

    def forward(self, images: Tensor) -> Tensor:
        return self.neck(self.backbone.stages(self.backbone.patch_embed(images)))
