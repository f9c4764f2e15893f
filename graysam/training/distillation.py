"""Distillation: teachers, their embeddings on disk, and the error of a student's embeddings."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graysam.data.dataset import Batch
from graysam.imaging.channels import Scheme
from graysam.imaging.presets import load_scheme
from graysam.models.weights import read_tensors
from graysam.system.files import replacing, sha256_of

VIT_SIDE = 1024  # SAM's and MedSAM's square input in pixels


class Teacher(Protocol):
    """A frozen network that embeds images.

    Attributes:
        identity: identifies the weights and everything else that decides the embeddings.
        scheme: the channels of its input.
    """

    identity: str
    scheme: Scheme

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B,3,S,S) float32 in [0,1], on the CPU -> (B,256,64,64) float16, on the CPU."""


@dataclass(kw_only=True)
class Distillation:
    """The teacher, the cache of its embeddings, and the weights of the losses.

    Args:
        teacher: embeds images.
        weight: of the embedding error beside the segmentation loss.
        segmentation_weight: of the segmentation loss beside it; 0 leaves the heads out of training.
        mask_weight: additional weight of embedding tokens inside a mask; 0 weights all tokens equally.
        cache_dir: parent folder of the caches, one subfolder per teacher and way of preparing images.
        cache_gb: maximum size of that subfolder in gigabytes; 0 stores nothing.

    Raises:
        ValueError: a negative number.
    """

    teacher: Teacher
    weight: float
    segmentation_weight: float
    mask_weight: float
    cache_dir: str
    cache_gb: float
    cache: "EmbeddingCache | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("weight", "segmentation_weight", "mask_weight", "cache_gb"):
            if getattr(self, name) < 0:
                raise ValueError(f"distillation.{name} is {getattr(self, name)}; required: 0 or more")

    def open_cache(self, preparation: str) -> None:
        """Open the cache of one way of preparing images, which the string `preparation` identifies."""
        digest = hashlib.sha256(f"{self.teacher.identity}\n{preparation}".encode()).hexdigest()[:16]
        self.cache = EmbeddingCache(Path(self.cache_dir) / digest, int(self.cache_gb * 1e9))

    def targets(self, batch: Batch) -> Tensor:
        """Return the teacher's embeddings of a batch, float32 (B,256,64,64), on the batch's device."""
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        found = [self._target(image, view) for image, view in zip(images, batch.views, strict=True)]
        return torch.stack([target.float() for target in found]).to(batch.images.device)  # autocast stacks no float16

    def _target(self, image: Tensor, view: str | None) -> Tensor:
        if self.cache is None or view is None:
            return self._embed(image)
        stored = self.cache.read(view)
        if stored is None:
            stored = self._embed(image)
            self.cache.write(view, stored)
        return stored

    def _embed(self, image: Tensor) -> Tensor:
        return self.teacher.embed(image[None].contiguous().cpu().float())[0]


class EmbeddingCache:
    """A folder with one file per embedding, within a byte budget.

    Nothing is evicted: once the budget is used up, nothing more is stored. Several processes may share the folder; they
    may exceed the budget by what each writes meanwhile. A damaged file counts as absent and is written anew.

    Args:
        folder: made where missing.
        budget_bytes: of all files together; 0 stores nothing.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder, self.budget_bytes = folder, budget_bytes
        if budget_bytes:
            folder.mkdir(parents=True, exist_ok=True)
        self.used_bytes = sum(path.stat().st_size for path in folder.glob("*.npy"))

    def read(self, name: str) -> Tensor | None:
        """Return an embedding, None where it is not stored."""
        try:
            return torch.from_numpy(np.load(self.folder / f"{name}.npy", allow_pickle=False))
        except (OSError, ValueError, EOFError):
            return None

    def write(self, name: str, embedding: Tensor) -> None:
        """Store an embedding while the budget lasts."""
        if self.used_bytes + embedding.nbytes > self.budget_bytes:
            return
        with replacing(self.folder / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, embedding.numpy(), allow_pickle=False)
        self.used_bytes += embedding.nbytes


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


class VitTeacher:
    """SAM's ViT-B image encoder in PyTorch, with MedSAM's or SAM's weights, at 1024 px.

    Images come on the 256 grid and are enlarged; as in MedSAM, SAM's mean and deviation are not subtracted.

    Args:
        weights: path of `medsam_vit_b.pth` or of SAM's ViT-B.
        device: e.g. cuda; cpu takes seconds per image.

    Raises:
        ValueError: a file that cannot be read or holds other weights.
    """

    def __init__(self, *, weights: str, device: str) -> None:
        self.scheme = load_scheme("replicate")
        self.identity = f"{sha256_of(Path(weights))} vit_b {VIT_SIDE}"
        self.device = torch.device(device)
        self.network = _vit_encoder(weights).to(self.device)

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """See `Teacher`."""
        large = F.interpolate(images.to(self.device), (VIT_SIDE, VIT_SIDE), mode="bilinear", align_corners=False)
        return self.network.forward_features(large).half().cpu()  # type: ignore[operator]


def _vit_encoder(weights: str) -> nn.Module:
    """Build timm's SAM ViT-B with the image encoder of a file, which names the MLP's layers differently."""
    import timm

    network = timm.create_model("samvit_base_patch16", pretrained=False, num_classes=0)
    prefix = "image_encoder."
    state = {
        key.removeprefix(prefix).replace(".mlp.lin", ".mlp.fc"): value
        for key, value in read_tensors(Path(weights))[0].items()
        if key.startswith(prefix)
    }
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing or unexpected:
        wrong = [*missing, *unexpected][0]
        raise ValueError(f"{weights} is no ViT-B of SAM or MedSAM (first difference: {wrong}); give medsam_vit_b.pth")
    return network.eval().requires_grad_(False)
