"""Distillation: a student's embeddings are drawn to a teacher's, on images with or without labels."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from graysam.data.dataset import Batch
from graysam.imaging.channels import Scheme
from graysam.training.embedding_cache import EmbeddingCache
from graysam.training.teachers import Teacher, digest


class Distillation:
    """The teacher, what is kept of it on disk, and the loss.

    Args:
        teacher: embeds images.
        weight: of the embedding error beside the segmentation loss.
        segmentation_weight: of the segmentation loss beside it; 0 leaves the heads out of training.
        mask_weight: how much more cells count where a mask is; 0 counts all cells alike.
        cache_dir: folder of what was computed once, a subfolder for every teacher and way of preparing images.
        cache_gb: at most so many gigabytes in that subfolder; 0 keeps nothing.
    """

    def __init__(
        self,
        *,
        teacher: Teacher,
        weight: float,
        segmentation_weight: float,
        mask_weight: float,
        cache_dir: str,
        cache_gb: float,
    ) -> None:
        for name, value in (
            ("weight", weight),
            ("segmentation_weight", segmentation_weight),
            ("mask_weight", mask_weight),
        ):
            if value < 0:
                raise ValueError(f"distillation.{name} is {value}; required: 0 or more")
        self.teacher, self.weight, self.segmentation_weight = teacher, weight, segmentation_weight
        self.mask_weight = mask_weight
        self.cache_dir, self.cache_bytes = Path(cache_dir), int(cache_gb * 1e9)
        self.cache: EmbeddingCache | None = None

    @property
    def scheme(self) -> Scheme:
        """The channels that the teacher wants."""
        return self.teacher.scheme

    def open_cache(self, preparation: str) -> None:
        """Open the cache for images that were prepared in a way that `preparation` stands for, by sample and view."""
        folder = self.cache_dir / digest(self.teacher.identity, preparation)
        self.cache = EmbeddingCache(folder, self.cache_bytes)

    def targets(self, batch: Batch) -> Tensor:
        """Return the teacher's embeddings of a batch, float32 (B,256,64,64), on the batch's device."""
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        found = [self._target(image, view) for image, view in zip(images, batch.views, strict=True)]
        return torch.stack([target.float() for target in found]).to(batch.images.device)  # autocast stacks no float16

    def _target(self, image: Tensor, view: str | None) -> Tensor:
        stored = None if self.cache is None or view is None else self.cache.read(view)
        if stored is not None:
            return stored
        embedding = self.teacher.embed(image[None].contiguous().cpu().float())[0]
        if self.cache is not None and view is not None:
            self.cache.write(view, embedding)
        return embedding


def embedding_error(student: Tensor, teacher: Tensor, masks: Tensor | None = None, mask_weight: float = 0.0) -> Tensor:
    """Return each image's squared error over the variance of the teacher's embeddings in the batch.

    student, teacher: (B,C,H,W). masks: (B,N,S,S) bool, S a multiple of H; cells that a mask covers count 1 +
    `mask_weight` times the valid_size share. 1 is what a constant embedding, the teacher's mean, would get.

    Returns:
        (B,) float32.
    """
    student, teacher = student.float(), teacher.float()
    error = (student - teacher).square().mean(dim=1)
    weights = torch.ones_like(error)
    if masks is not None and mask_weight and masks.shape[1]:
        valid_size = masks.any(dim=1, keepdim=True).float()
        weights = weights + mask_weight * F.adaptive_avg_pool2d(valid_size, (error.shape[-2], error.shape[-1]))[:, 0]
    spread = (teacher - teacher.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    return (error * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)) / spread
