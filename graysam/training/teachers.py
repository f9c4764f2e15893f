"""Teachers of a distillation: frozen image encoders, in OpenVINO on a CPU and in PyTorch on a GPU."""

import copy
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graysam.imaging.channels import Scheme, load_scheme
from graysam.models.registry import Pretrained, open_pretrained
from graysam.models.sam import Sam
from graysam.models.weights import read_tensors, resolve
from graysam.system.files import sha256_of

Precision = Literal["bf16", "f32"]


class Teacher(Protocol):
    """A frozen network that embeds images."""

    identity: str  # of the weights and everything else that decides the embeddings
    scheme: Scheme  # of its input's channels
    summary: str  # what runs where, for a terminal
    heads: Sam | None  # prompt encoder and mask decoder on the CPU; None where only embeddings are learnt

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B,3,S,S) float32 in [0,1], on any device -> (B,256,64,64) float16, on the CPU."""


def open_teacher(*, model: str, precision: Precision, threads: int | None, accelerator: str) -> Teacher:
    """Open a model as the teacher: in batches in PyTorch where training runs on a GPU, otherwise in OpenVINO.

    Args:
        model: `lite_medsam`, or a weight file that names its channels.
        precision: `bf16`, which halves the time where the processor has it (5 % of LiteMedSAM's embedding changes), or
            `f32`.
        threads: of the CPU in OpenVINO; None leaves the choice to it.
        accelerator: the Trainer's: `auto`, `gpu` and `cuda` take a GPU where PyTorch sees one.

    Raises:
        ValueError: an unknown model, or one that does not name its channels.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return TorchTeacher(model=model, precision=precision, device=f"cuda:{torch.cuda.current_device()}")
    return OpenVinoTeacher(model=model, precision=precision, threads=threads)


def _open(model: str) -> tuple[Pretrained, Scheme]:
    found = open_pretrained(model)
    if found.scheme is None:
        raise ValueError(f"{model} does not say which channels it was trained on, so it cannot teach; give another")
    return found, found.scheme


def _heads_of(model: Sam) -> Sam:
    """Return a copy of a model without its image encoder, frozen."""
    heads = Sam(image_encoder=nn.Identity(), prompt_encoder=model.prompt_encoder, mask_decoder=model.mask_decoder)
    return copy.deepcopy(heads).eval().requires_grad_(False)


class TorchTeacher:
    """A model's image encoder in PyTorch, in batches: for a GPU.

    Args:
        model, precision: as for `open_teacher`.
        device: e.g. `cuda:0`.

    Raises:
        ValueError: as for `open_teacher`.
    """

    def __init__(self, *, model: str, precision: Precision, device: str) -> None:
        found, self.scheme = _open(model)
        self.identity = f"{found.source.sha256} torch {precision} {found.size}"
        self.summary = f"{model} in PyTorch on {device}, {precision}, in batches"
        self.heads: Sam | None = _heads_of(found.model)
        self.device = torch.device(device)
        self.network = found.model.image_encoder.to(self.device).requires_grad_(False)
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """See `Teacher`."""
        with self._autocast:
            embedding = self.network(images.to(self.device, memory_format=torch.channels_last))
        return embedding.half().cpu().contiguous()


class OpenVinoTeacher:
    """A model's image encoder in OpenVINO, compiled from the model in memory: the fastest teacher on a CPU.

    Arguments and errors as for `open_teacher`.
    """

    def __init__(self, *, model: str, precision: Precision, threads: int | None) -> None:
        from graysam.exporting.conversion import convert  # imports OpenVINO, which other runs do without
        from graysam.inference.openvino_core import has_bf16, open_core, thread_properties

        found, self.scheme = _open(model)
        self.identity = f"{found.source.sha256} {precision} {found.size}"
        core = open_core()
        hint = precision if has_bf16(core) else "f32"
        self.summary = f"{model} in OpenVINO on the CPU, {hint}, image by image"
        self.heads: Sam | None = _heads_of(found.model)
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        properties |= thread_properties(threads)
        graph = convert(found.model, half_precision=True)["encoder"]
        self._request = core.compile_model(graph, "CPU", properties).create_infer_request()

    def embed(self, images: Tensor) -> Tensor:
        """See `Teacher`."""
        rows = []
        for image in images.contiguous().cpu().float().numpy():
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
        self.summary = f"ViT-B of {path.name} in PyTorch on {device}, at 1024 px"
        self.heads: Sam | None = None
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
