"""Distillation: teachers, their embeddings on disk, and the error of a student's embeddings."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graysam.data.dataset import Batch
from graysam.imaging.canvas import content_hash
from graysam.imaging.channels import Scheme, load_scheme
from graysam.models.registry import open_pretrained
from graysam.models.weights import read_tensors, resolve
from graysam.system.files import replacing, sha256_of
from graysam.system.terminal import check_at_least


class Teacher(Protocol):
    """A frozen network that embeds images."""

    identity: str  # of the weights and everything else that decides the embeddings
    scheme: Scheme  # of its input's channels

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B,3,S,S) float32 in [0,1], on the CPU -> (B,256,64,64) float16, on the CPU."""


@dataclass(kw_only=True)
class Distillation:
    """The teacher, the cache of its embeddings on disk, and the weights of the losses.

    The cache holds one file per embedding, named after the content of the teacher's input, so that runs on any shards
    share it. Nothing is evicted: once its size is used up, nothing more is stored.
    Several processes may share it; they may exceed the size by what each writes meanwhile. A damaged file counts as
    absent and is written anew.

    Args:
        teacher: embeds images.
        weight: of the embedding error beside the segmentation loss.
        segmentation_weight: of the segmentation loss beside it; 0 leaves the heads out of training.
        mask_weight: additional weight of embedding tokens inside a mask; 0 weights all tokens equally.
        cache_dir: parent folder of the caches, one subfolder per teacher.
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
    cache: Path = field(init=False)
    free_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        for name in ("weight", "segmentation_weight", "mask_weight", "cache_gb"):
            check_at_least(0, f"distillation.{name}", getattr(self, name))
        digest = hashlib.sha256(self.teacher.identity.encode()).hexdigest()[:16]
        self.cache = Path(self.cache_dir) / digest
        self.free_bytes = int(self.cache_gb * 1e9) - sum(path.stat().st_size for path in self.cache.glob("*.npy"))

    def targets(self, batch: Batch) -> Tensor:
        """Return the teacher's embeddings of a batch, float32 (B,256,64,64), on the batch's device."""
        images = batch.images if batch.teacher_images is None else batch.teacher_images
        found = [self._target(image, view) for image, view in zip(images, batch.views, strict=True)]
        return torch.stack([target.float() for target in found]).to(batch.images.device)  # autocast stacks no float16

    def _target(self, image: Tensor, view: str | None) -> Tensor:
        file = self.cache / f"{content_hash(image.cpu().numpy())}.npy" if view else None
        if file is not None:
            with suppress(OSError, ValueError, EOFError):  # absent or damaged
                return torch.from_numpy(np.load(file, allow_pickle=False))
        embedding = self.teacher.embed(image[None].contiguous().cpu().float())[0]
        if file is not None and embedding.nbytes <= self.free_bytes:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary, open(temporary, "wb") as opened:
                np.save(opened, embedding.numpy(), allow_pickle=False)
            self.free_bytes -= embedding.nbytes
        return embedding


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


class OpenVinoTeacher:
    """A model's image encoder in OpenVINO, compiled from the model in memory: the fastest teacher on a CPU.

    Args:
        model: `lite_medsam`, or a weight file that names its channels.
        precision: `bf16`, which halves the time where the CPU has it (5 % of LiteMedSAM's embedding changes), or `f32`.
        threads: of the CPU; None leaves the choice to OpenVINO.

    Raises:
        ValueError: an unknown model, or one that does not name its channels.
    """

    def __init__(self, *, model: str, precision: Literal["bf16", "f32"], threads: int | None) -> None:
        from graysam.exporting.conversion import convert  # imports OpenVINO, which other runs do without
        from graysam.inference.openvino_core import has_bf16, open_core, thread_properties

        found = open_pretrained(model)
        if found.scheme is None:
            raise ValueError(f"{model} does not say which channels it was trained on, so it cannot teach; give another")
        self.scheme, self.size = found.scheme, found.size
        self.identity = f"{found.source.sha256} {precision} {found.size}"
        core = open_core()
        hint = precision if has_bf16(core) else "f32"
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        properties |= thread_properties(threads)
        graph = convert(found.model, half_precision=True)["encoder"]
        self._request = core.compile_model(graph, "CPU", properties).create_infer_request()

    def embed(self, images: Tensor) -> Tensor:
        """See `Teacher`."""
        rows = []
        for image in images.numpy():
            self._request.infer({"images": np.ascontiguousarray(image[None])}, share_inputs=True)
            rows.append(np.array(self._request.get_output_tensor().data[0]))  # (HW,256) float16
        embeddings = torch.from_numpy(np.stack(rows)).transpose(1, 2)
        side = int(embeddings.shape[-1] ** 0.5)
        return embeddings.unflatten(2, (side, side))


class VitTeacher:
    """SAM's ViT-B image encoder in PyTorch, with MedSAM's or SAM's weights, at 1024 px.

    Images come on the 256 grid and are enlarged; as in MedSAM, SAM's mean and deviation are not subtracted.

    Args:
        weights: path of `medsam_vit_b.pth` or of SAM's ViT-B, or `sam_vit_b`, which is downloaded.
        device: e.g. cuda; cpu takes seconds per image.

    Raises:
        ValueError: a file that cannot be read or holds other weights.
    """

    def __init__(self, *, weights: str, device: str) -> None:
        import timm

        self.scheme = load_scheme("replicate")
        path = resolve(weights)
        self.identity = f"{sha256_of(path)} vit_b 1024"
        self.device = torch.device(device)
        self.network = timm.create_model("samvit_base_patch16", pretrained=False, num_classes=0)
        state = {  # timm names the MLP's layers differently
            key.removeprefix("image_encoder.").replace(".mlp.lin", ".mlp.fc"): value
            for key, value in read_tensors(path)[0].items()
            if key.startswith("image_encoder.")
        }
        if wrong := sorted(state.keys() ^ self.network.state_dict().keys()):
            raise ValueError(
                f"{weights} is no ViT-B of SAM or MedSAM (it differs in {wrong[0]}); give medsam_vit_b.pth"
            )
        self.network.load_state_dict(state)
        self.network.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """See `Teacher`."""
        large = F.interpolate(images.to(self.device), (1024, 1024), mode="bilinear", align_corners=False)
        return self.network.forward_features(large).half().cpu()
