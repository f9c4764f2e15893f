"""The three-term loss: binary cross-entropy, squared Dice and the error of the predicted IoU (paper, table 3).

All functions return one value per object, so that a sample with a bad value can be named; the caller averages them.
"""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from graysam.system.terminal import check_at_least

DICE_SMOOTHING = 1e-5  # MONAI's default, in numerator and denominator
TERMS = ("total", "bce", "dice", "iou")
EMBEDDING = "embedding"  # the student's distance from its teacher
PROMPT = "prompt"  # the distance of its masks from the teacher's
PER_IMAGE = (EMBEDDING, PROMPT)
# As metrics.
LOGGED = {
    "total": "loss",
    **{term: f"loss_{term}" for term in TERMS[1:]},
    EMBEDDING: "embedding_error",
    PROMPT: "prompt_error",
}


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


def boundary_band(masks: Tensor, width_px: int) -> Tensor:
    """Return 1 where a pixel of the other side lies within `width_px` rows and columns, 0 elsewhere.

    Shape: float masks (B,N,H,W) in {0,1} -> the same.
    """
    size = 2 * width_px + 1
    dilated = F.max_pool2d(masks, size, stride=1, padding=width_px)
    eroded = -F.max_pool2d(-masks, size, stride=1, padding=width_px)
    return dilated - eroded


class SegmentationLoss(nn.Module):
    """Weighted sum of BCE, squared Dice and the squared error of the predicted IoU.

    Args:
        bce_weight, dice_weight, iou_weight: weights of the terms.
        boundary_weight: additional weight, in the mean of BCE over pixels, of those near the contour; 0 weights all
            pixels equally.
        boundary_px: how near, in pixels of the masks, on either side of the contour.

    Shape: logits (B,N,H,W), predicted IoU (B,N), masks (B,N,H,W) bool or {0,1} -> TERMS, float32 (B,N) each, where
    `total` is the weighted sum.
    """

    def __init__(
        self,
        *,
        bce_weight: float,
        dice_weight: float,
        iou_weight: float,
        boundary_weight: float = 0.0,
        boundary_px: int = 3,
    ) -> None:
        super().__init__()
        check_at_least(0, "loss.boundary_weight", boundary_weight)
        check_at_least(1, "loss.boundary_px", boundary_px)
        self.bce_weight, self.dice_weight, self.iou_weight = bce_weight, dice_weight, iou_weight
        self.boundary_weight, self.boundary_px = boundary_weight, boundary_px

    def forward(self, logits: Tensor, predicted_iou: Tensor, masks: Tensor) -> dict[str, Tensor]:
        logits, predicted_iou, targets = logits.float(), predicted_iou.float(), masks.float()
        bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.boundary_weight:
            weights = 1 + self.boundary_weight * boundary_band(targets, self.boundary_px)
            bce = bce * (weights / weights.mean(dim=(-2, -1), keepdim=True))
        bce = bce.mean(dim=(-2, -1))
        dice = squared_dice_per_object(logits, targets)
        iou = (predicted_iou - iou_per_object(logits, targets)).square()
        total = self.bce_weight * bce + self.dice_weight * dice + self.iou_weight * iou
        return {"total": total, "bce": bce, "dice": dice, "iou": iou}


class TermSums(dict[str, Tensor]):
    """Sums over objects of each of TERMS with their `count`; with a teacher also of PER_IMAGE over `images`."""

    def add(self, more: "TermSums") -> None:
        """Add the sums of another batch, detached from the graph."""
        for name, value in more.items():
            self[name] = self[name] + value.detach() if name in self else value.detach()

    def over_ranks(self) -> "TermSums":
        """Return the sums over all ranks, without gradient."""
        if not self:
            return TermSums()
        values = torch.stack([value.detach() for value in self.values()])
        if world_size() > 1:
            torch.distributed.all_reduce(values)
        return TermSums(zip(self, values, strict=True))

    def means(self) -> dict[str, float]:
        """Return each term's mean over its objects or images; terms without any are left out."""
        counts = {name: self.get("images" if name in PER_IMAGE else "count") for name in (*TERMS, *PER_IMAGE)}
        return {
            name: float(self[name] / count)
            for name, count in counts.items()
            if name in self and count is not None and count > 0
        }


def world_size() -> int:
    """Return the number of ranks that train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
