"""Image encoders: timm backbones with the stems, strides and constants that the published weights expect."""

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from timm.models.efficientvit_mit import EfficientVitLarge, LiteMLA
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

from graysam.models.neck import NORM_EPS, SamNeck, tiny_vit_neck

LITE_MLA_EPS = 1e-15  # the authors' value; timm fixes 1e-5 and takes no argument


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
        self.neck = tiny_vit_neck(embed_dims[-1], embedding_dim)

    @property
    def embedding_norm(self) -> nn.Module:
        """The last LayerNorm2d, which sets the scale of the embedding."""
        return self.neck[3]

    def forward(self, images: Tensor) -> Tensor:
        return self.neck(self.backbone.stages(self.backbone.patch_embed(images)))
