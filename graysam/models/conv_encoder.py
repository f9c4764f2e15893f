"""graysam_s's image encoder: a convolutional backbone of timm and a top-down pyramid, made for int8."""

from collections.abc import Sequence
from typing import Literal, get_args

import timm
import torch.nn.functional as F
from timm.layers import ConvNormAct, LayerNorm2d
from torch import Tensor, nn

from graysam.models.image_encoders import NORM_EPS

# The backbones that a file may name; timm would also download what others name.
Backbone = Literal["regnety_002", "regnety_016", "hgnetv2_b0", "hgnetv2_b2", "resnet34"]
STRIDES = (4, 8, 16, 32)


class ConvPyramidEncoder(nn.Module):
    """Features of strides 4 to 32, fused top-down on the grid of stride 4, refined, and normalized as SAM's.

    Every activation lies between 0 and 6 (ReLU6), so that one range serves all images in int8. The maps of stride 4
    hold contours that EfficientViT-SAM, which begins at stride 8, does not see.

    Args:
        backbone: name in timm of a convolutional network with features of STRIDES; it starts with random weights.
        width: channels of the pyramid.
        depth: residual blocks on the finest grid.
        embedding_dim: channels of the embedding.

    Shape: (B,3,H,W) float, H and W multiples of 32 -> (B, embedding_dim, H/4, W/4).
    Source of the fusion: Lin et al. 2017, "Feature pyramid networks for object detection", arXiv:1612.03144.

    Raises:
        ValueError: an unknown backbone.
    """

    def __init__(self, *, backbone: Backbone, width: int, depth: int, embedding_dim: int) -> None:
        super().__init__()
        if backbone not in get_args(Backbone):
            raise ValueError(f"backbone {backbone!r} is unknown; choose one of {', '.join(get_args(Backbone))}")
        self.backbone = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=(-4, -3, -2, -1))
        info = self.backbone.feature_info
        assert tuple(info.reduction()) == STRIDES
        _bound_activations(self.backbone)
        self.pyramid = Pyramid(in_channels=info.channels(), width=width, depth=depth)
        self.head = nn.Conv2d(width, embedding_dim, 1)
        self.norm = LayerNorm2d(embedding_dim, eps=NORM_EPS)

    @property
    def embedding_norm(self) -> nn.Module:
        """The last LayerNorm2d, which sets the scale of the embedding."""
        return self.norm

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.head(self.pyramid(self.backbone(images))))


class Pyramid(nn.Module):
    """Bring maps to one width, double and add them from the coarsest to the finest, and refine the sum.

    Args:
        in_channels: channels of the maps, finest first; each map is half as wide and high as the one before.
        width: channels inside and of the output.
        depth: residual blocks.

    Shape: list of (B, in_channels[i], h / 2**i, w / 2**i) -> (B, width, h, w).
    """

    def __init__(self, *, in_channels: Sequence[int], width: int, depth: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([ConvNormAct(channels, width, 1, apply_act=False) for channels in in_channels])
        self.act = nn.ReLU6()
        self.blocks = nn.Sequential(*[ResidualBlock(width) for _ in range(depth)])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *finer, fused = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for lateral in reversed(finer):
            fused = lateral + F.interpolate(fused, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.blocks(self.act(fused))


class ResidualBlock(nn.Module):
    """A 3x3 and a 1x1 convolution with batch norm and a residual: (B,width,h,w) -> (B,width,h,w), within [0,6]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(width, width, 3, act_layer=nn.ReLU6)
        self.conv2 = ConvNormAct(width, width, 1, apply_act=False)
        self.act = nn.ReLU6()
        nn.init.zeros_(self.conv2.bn.weight)  # starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.conv2(self.conv1(x)))


def _bound_activations(network: nn.Module) -> None:
    """Replace every ReLU by ReLU6."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.ReLU:
                setattr(module, name, nn.ReLU6(inplace=child.inplace))
