"""The three-term loss: binary cross-entropy, squared Dice and the error of the predicted IoU (paper, table 3).

All functions return one value an object, so that a bad sample can be named; averaging is the caller's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DICE_SMOOTHING = 1e-5  # MONAI's default, in numerator and denominator


def bce_per_object(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of each object: logits (...,H,W), masks (...,H,W) in {0,1} -> (...)."""
    return F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=(-2, -1))


def squared_dice_per_object(logits: Tensor, masks: Tensor) -> Tensor:
    """Return 1 - (2 sum(p g) + e) / (sum(p^2) + sum(g^2) + e) of each object, p the sigmoid of the logits.

    Shape: logits (...,H,W), masks (...,H,W) in {0,1} -> (...). Reference: V-Net (Milletari et al. 2016), as MONAI's
    DiceLoss(sigmoid, squared_pred) computes it.
    """
    probabilities = logits.sigmoid()
    overlap = (probabilities * masks).sum(dim=(-2, -1))
    total = probabilities.square().sum(dim=(-2, -1)) + masks.square().sum(dim=(-2, -1))
    return 1 - (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)


def iou_per_object(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the IoU of sigmoid(logits) > 0.5 with the mask, (...,H,W) -> (...), without gradient.

    Where both are empty they agree, and the IoU is 1 (the released code has 0/0 there, and its loss becomes NaN).
    """
    predicted, wanted = logits.detach() > 0, masks > 0.5
    union = (predicted | wanted).sum(dim=(-2, -1))
    overlap = (predicted & wanted).sum(dim=(-2, -1))
    return torch.where(union > 0, overlap / union.clamp(min=1), 1.0)


@dataclass(frozen=True)
class LossTerms:
    """Each object's terms, (B,N) each, and their weighted sum."""

    bce: Tensor
    dice: Tensor
    iou: Tensor
    total: Tensor


class SegmentationLoss(nn.Module):
    """Weighted sum of BCE, squared Dice and the squared error of the predicted IoU.

    Args:
        bce_weight, dice_weight, iou_weight: weights of the terms.

    Shape: logits (B,N,H,W), predicted IoU (B,N), masks (B,N,H,W) bool or {0,1} -> LossTerms of (B,N), in float32.
    """

    def __init__(self, *, bce_weight: float, dice_weight: float, iou_weight: float) -> None:
        super().__init__()
        self.bce_weight, self.dice_weight, self.iou_weight = bce_weight, dice_weight, iou_weight

    def forward(self, logits: Tensor, predicted_iou: Tensor, masks: Tensor) -> LossTerms:
        logits, predicted_iou, targets = logits.float(), predicted_iou.float(), masks.float()
        bce = bce_per_object(logits, targets)
        dice = squared_dice_per_object(logits, targets)
        iou = (predicted_iou - iou_per_object(logits, targets)).square()
        total = self.bce_weight * bce + self.dice_weight * dice + self.iou_weight * iou
        return LossTerms(bce=bce, dice=dice, iou=iou, total=total)
