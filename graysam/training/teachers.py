"""Networks whose embeddings a student is trained to give."""

import hashlib
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graysam.imaging.channels import Scheme
from graysam.imaging.presets import load_scheme
from graysam.models.weights import read_tensors
from graysam.system.files import sha256_of

VIT_SIDE = 1024  # SAM's and MedSAM's square input in pixels


class Teacher(Protocol):
    """Embeds images; frozen.

    identity: stands for the weights and everything else that decides the embeddings. scheme: the channels it wants.
    """

    identity: str
    scheme: Scheme

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B,3,S,S) float32 in [0,1], on the CPU -> (B,256,64,64) float16, on the CPU."""


class VitTeacher:
    """SAM's ViT-B image encoder in PyTorch, with MedSAM's or SAM's weights, at 1024 px.

    Images come on the 256 grid and are enlarged; SAM's own mean and deviation are not subtracted, as in MedSAM.

    Args:
        weights: path of `medsam_vit_b.pth` or of SAM's ViT-B.
        device: where it computes, e.g. cuda; cpu takes seconds an image.

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
    """Build timm's SAM ViT-B with the image encoder of a file, whose keys differ in a few names."""
    import timm

    network = timm.create_model("samvit_base_patch16", pretrained=False, num_classes=0)
    names = {
        "image_encoder.pos_embed": "pos_embed",
        "image_encoder.patch_embed.": "patch_embed.",
        "image_encoder.blocks.": "blocks.",
        "image_encoder.neck.": "neck.",
    }
    state = {}
    for key, value in read_tensors(weights).items():
        for old, new in names.items():
            if key.startswith(old):
                state[(new + key.removeprefix(old)).replace(".mlp.lin", ".mlp.fc")] = value
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing or unexpected:
        wrong = [*missing, *unexpected][0]
        raise ValueError(f"{weights} is no ViT-B of SAM or MedSAM (first difference: {wrong}); give medsam_vit_b.pth")
    return network.eval().requires_grad_(False)


def digest(*facts: str) -> str:
    """Return 16 hexadecimal digits that stand for some facts."""
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
