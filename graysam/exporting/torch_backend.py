"""The torch backend of the volume engine: a Sam behind `encode` and `decode`, NumPy at the border."""

import numpy as np
import torch
from numpy.typing import NDArray

from graysam.imaging.channels import Scheme, load_scheme, scheme_names
from graysam.models.registry import Pretrained, open_pretrained
from graysam.models.sam import Sam
from graysam.system.terminal import one_line

Float32 = NDArray[np.float32]


class TorchBackend:
    """Runs a Sam in inference mode.

    Args:
        model: the network; it is put into evaluation mode and moved to the device.
        device: e.g. `cpu` or `cuda`.
        precision: `fp32`, or `bf16` for autocast.

    Raises:
        ValueError: another precision.
    """

    def __init__(self, model: Sam, *, device: str, precision: str) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {precision!r}; the torch backend has fp32 and bf16")
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self._autocast = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    @torch.inference_mode()
    def encode(self, images: Float32) -> Float32:
        """Embed images: float32 (B,3,256,256) -> float32 (B,256,64,64)."""
        with self._autocast:
            embedding = self.model.encode(torch.from_numpy(images).to(self.device))
        return embedding.float().cpu().numpy()

    @torch.inference_mode()
    def decode(
        self, embedding: Float32, grid_boxes: Float32, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32, Float32]:
        """Segment one embedded image: (256,64,64) and boxes (N,4) -> logits (N,256,256), predicted IoU (N,)."""
        given = [torch.from_numpy(array)[None].to(self.device) for array in (embedding, grid_boxes)]
        with self._autocast:
            logits, iou = self.model.decode(*given)
        return logits[0].float().cpu().numpy(), iou[0].float().cpu().numpy()


def open_torch_backend(
    model: str,
    *,
    channels: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> tuple[TorchBackend, Scheme, int, str]:
    """Load a model file for the torch backend.

    Args:
        model: `graysam_l0`, `lite_medsam`, a checkpoint, or a `.safetensors`, `.pth` or `.pt` file.
        channels: name of a channel scheme; None takes the one that the file names.
        precision: `fp32`, the default, or `bf16`.
        device: e.g. `cuda`; the CPU by default.
        threads: of the CPU, for the whole process; None leaves torch's number.

    Returns:
        The backend, the channels it takes, the side of its square input in pixels, and where its weights come from.

    Raises:
        ValueError: a model that cannot be loaded, a file that names no channel scheme without `channels`, a device that
            is not available, or another precision.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    found, scheme = open_with_scheme(model, channels)
    try:
        backend = TorchBackend(found.model, device=device or "cpu", precision=precision or "fp32")
    except (RuntimeError, AssertionError) as error:  # torch's, for a device that is not available
        raise ValueError(f"device {device} cannot be used: {one_line(error)[:200]}") from None
    return backend, scheme, found.size, found.source.describe()


def open_with_scheme(model: str, channels: str | None) -> tuple[Pretrained, Scheme]:
    """Load a model file and return it with its channel scheme, or with the scheme named `channels`.

    Raises:
        ValueError: a model that cannot be loaded, or a file that names no channel scheme without `channels`.
    """
    found = open_pretrained(model)
    scheme = found.scheme if channels is None else load_scheme(channels)
    if scheme is None:
        names = "|".join(scheme_names())
        raise ValueError(f"{model} does not say which channels it was trained on; give --channels {names}")
    return found, scheme
