"""Distillation: what a student learns from its teacher's embeddings and masks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from graysam.data.dataset import Batch
from graysam.models.sam import Sam
from graysam.system.terminal import check_at_least
from graysam.training.embedding_cache import EmbeddingCache
from graysam.training.losses import squared_dice_per_object
from graysam.training.teachers import Teacher

RANDOM_SIDES = (0.08, 0.6)  # of random boxes, as shares of the image's sides


@dataclass(kw_only=True)
class Distillation:
    """The teacher, the cache of its embeddings on disk, and the weights of the losses.

    It is no part of the student's module: a copy of the module, as of averaged weights, shares it.

    Args:
        teacher: embeds images.
        weight: of the embedding error beside the segmentation loss.
        segmentation_weight: of the segmentation loss beside it; 0 leaves the heads out of training.
        mask_weight: additional weight of embedding tokens inside a mask; 0 weights all tokens equally.
        prompt_weight: of the difference between the masks that student and teacher give for the same boxes; 0 decodes
            none.
        cache_dir: parent folder of the caches, one subfolder per teacher, see `EmbeddingCache`.
        cache_gb: maximum size of that subfolder in gigabytes; 0 stores nothing.
        cache_bits: of a stored number, 16 or 8.

    Raises:
        ValueError: a negative number, or a teacher without heads for `prompt_weight`.
    """

    teacher: Teacher
    weight: float
    segmentation_weight: float
    mask_weight: float
    prompt_weight: float
    cache_dir: str
    cache_gb: float
    cache_bits: Literal[8, 16]
    cache: EmbeddingCache = field(init=False)

    def __post_init__(self) -> None:
        for name in ("weight", "segmentation_weight", "mask_weight", "prompt_weight", "cache_gb"):
            check_at_least(0, f"distillation.{name}", getattr(self, name))
        if self.prompt_weight and self.teacher.heads is None:
            raise ValueError("distillation.prompt_weight: this teacher has no mask decoder; use 0")
        self.cache = EmbeddingCache(
            Path(self.cache_dir), identity=self.teacher.identity, gigabytes=self.cache_gb, bits=self.cache_bits
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def describe(self) -> str:
        """Return in one line what teaches, where it runs, and where its embeddings are kept."""
        kept = f"embeddings of {self.cache_bits} bits in {self.cache.folder}" if self.cache_gb else "nothing is kept"
        return f"{self.teacher.summary}; {kept}"

    def targets(self, batch: Batch) -> Tensor:
        """Return the teacher's embeddings of a batch, float32 (B,256,64,64), on the batch's device."""
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        named = [view is not None for view in batch.views]
        found = [self.cache.load(image) if known else None for image, known in zip(images, named, strict=True)]
        if missing := [place for place, target in enumerate(found) if target is None]:
            for place, target in zip(missing, self.teacher.embed(images[missing]), strict=True):
                found[place] = self.cache.store(images[place], target) if named[place] else target
        # Converted first: autocast stacks no float16.
        return torch.stack([target.float() for target in found if target is not None]).to(batch.images.device)

    def prompt_error(self, student: Sam, embedding: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Return each image's difference between the student's and the teacher's mask for the same box, (B,) float32.

        The box is the first of an image's, or a random one where it has none. The difference is that of `mask_error`.

        Args:
            student: its own heads segment its embedding.
            embedding, target: of student and teacher, (B,256,64,64).
            batch: images and boxes.
        """
        teacher = self.teacher.heads
        assert teacher is not None
        boxes = prompts(batch)[:, None]
        with torch.no_grad():
            wanted, _ = teacher.to(embedding.device).decode(target, boxes)
        logits, _ = student.decode(embedding, boxes)
        return mask_error(logits, wanted)[:, 0]


def mask_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Return cross-entropy minus the teacher's entropy, plus squared Dice, of two masks' logits; 0 where they agree.

    Shape: (...,H,W) each -> (...) float32. Dice takes the teacher's mask as 0 or 1, so that it agrees only nearly.
    Source: EdgeSAM (Zhou et al. 2023, arXiv:2312.06660), which compares the masks of prompts too.
    """
    student, teacher = student.float(), teacher.float()
    wanted = teacher.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")
    cross = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    return (cross - entropy).mean(dim=(-2, -1)) + squared_dice_per_object(student, (teacher > 0).float())


def prompts(batch: Batch) -> Tensor:
    """Return one box for each image, (B,4) float32 on the input grid: its first, or a random one where it has none.

    Random boxes lie within the image, not in its padding; each side is RANDOM_SIDES of the image's. Their numbers are
    torch's, which the module seeds by the step.
    """
    seen = batch.images.amax(dim=1) > 0
    extent = torch.stack([_last(seen.any(dim=1)), _last(seen.any(dim=2))], dim=1)  # (B,2): width, height
    low, high = RANDOM_SIDES
    # Drawn on the CPU, so that a GPU draws the same.
    sides, places = (torch.rand(len(extent), 2).to(extent) for _ in range(2))
    size = (low * (high / low) ** sides) * extent
    corner = places * (extent - size)
    drawn = torch.cat([corner, corner + size], dim=1)
    if not batch.boxes.shape[1]:
        return drawn
    return torch.where(batch.valid[:, :1], batch.boxes[:, 0], drawn)


def _last(seen: Tensor) -> Tensor:
    """Return the index after the last True of each row, float32: (B,S) bool -> (B,)."""
    places = torch.arange(1, seen.shape[1] + 1, device=seen.device)
    return (seen * places).amax(dim=1).clamp(min=1).float()


def embedding_error(student: Tensor, teacher: Tensor, masks: Tensor | None = None, mask_weight: float = 0.0) -> Tensor:
    """Return each image's squared error over the variance of the teacher's embeddings in the batch.

    A constant embedding, the teacher's mean, has an error of 1.

    Args:
        student, teacher: (B,C,H,W).
        masks: (B,N,S,S) bool, S a multiple of H.
        mask_weight: an embedding token has weight 1 + `mask_weight` times the share of its area inside a mask.

    Returns:
        (B,) float32.
    """
    student, teacher = student.float(), teacher.float()
    error = (student - teacher).square().mean(dim=1)
    weights = torch.ones_like(error)
    if masks is not None and mask_weight and masks.shape[1]:
        inside = masks.any(dim=1, keepdim=True).float()
        weights = weights + mask_weight * F.adaptive_avg_pool2d(inside, (error.shape[-2], error.shape[-1]))[:, 0]
    variance = (teacher - teacher.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    return (error * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)) / variance
