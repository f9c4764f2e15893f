"""The torch backend of the volume engine: a Sam behind `encode` and `decode`, NumPy at the border."""

import numpy as np
import torch
from numpy.typing import NDArray

from graysam.models.sam import Sam

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
            raise ValueError(f"precision {precision!r} is not one of the torch backend's: fp32, bf16")
        self.device = torch.device(device)
        self.model = model.eval().to(self.device)
        self.autocast = precision == "bf16"

    def _mode(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast)

    @torch.inference_mode()
    def encode(self, images: Float32) -> Float32:
        """Embed images: float32 (B,3,256,256) -> float32 (B,256,64,64)."""
        with self._mode():
            embedding = self.model.encode(torch.from_numpy(images).to(self.device))
        return embedding.float().cpu().numpy()

    @torch.inference_mode()
    def decode(
        self, embedding: Float32, boxes_256: Float32, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32, Float32]:
        """Segment one embedded image: (256,64,64) and boxes (N,4) -> logits (N,256,256), predicted IoU (N,)."""
        with self._mode():
            logits, iou = self.model.decode(
                torch.from_numpy(embedding)[None].to(self.device),
                torch.from_numpy(boxes_256)[None].to(self.device),
            )
        return logits[0].float().cpu().numpy(), iou[0].float().cpu().numpy()
