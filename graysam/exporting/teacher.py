"""A model's image encoder alone in OpenVINO, compiled from the model in memory: the fastest teacher on a CPU."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graysam.exporting.conversion import convert
from graysam.inference.openvino_core import has_bf16, open_core
from graysam.models.pretrained import open_pretrained
from graysam.models.sam import Sam


class EncoderEngine:
    """Embeds one image at a time.

    Args:
        model: float32; left as it is, and not needed afterwards.
        size: side S of its square input in pixels.
        precision: OpenVINO's, `f32` or `bf16`; where the CPU has no bfloat16, float32.
        threads: of the CPU; None leaves the choice to OpenVINO.
    """

    def __init__(self, model: Sam, size: int, *, precision: str, threads: int | None) -> None:
        graph = convert(model, size, half_precision=True)["encoder"]
        core = open_core()
        computed_in = precision if has_bf16(core) else "f32"
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": computed_in}
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        self._request = core.compile_model(graph, "CPU", properties).create_infer_request()

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float16]:
        """Embed one image: float32 (3,S,S) in [0,1] -> float16 (HW,256), a fresh array."""
        self._request.infer({"images": np.ascontiguousarray(image[None])}, share_inputs=True)
        return np.array(self._request.get_output_tensor().data[0])


class OpenVinoTeacher:
    """A model's image encoder in OpenVINO, the fastest way on a CPU.

    Args:
        model: `lite_medsam`, or a weight file that says its channels.
        precision: `bf16`, which halves the time where the CPU has it (5 % of LiteMedSAM's embedding changes), or `f32`.
        threads: of the CPU; None leaves the choice to OpenVINO.

    Raises:
        ValueError: no such model, one that does not say its channels, or another precision.
    """

    def __init__(self, *, model: str, precision: str, threads: int | None) -> None:
        if precision not in ("bf16", "f32"):
            raise ValueError(f"the teacher's precision is {precision!r}; required: bf16 or f32")
        found = open_pretrained(model)
        if found.scheme is None:
            raise ValueError(f"{model} does not say which channels it was trained on, so it cannot teach; give another")
        self.scheme, self.size = found.scheme, found.size
        self.identity = f"{found.source.sha256} {precision} {found.size}"
        self.engine = EncoderEngine(found.model, found.size, precision=precision, threads=threads)

    def embed(self, images: Tensor) -> Tensor:
        """See `graysam.training.distillation.Teacher`."""
        cells = np.stack([self.engine(image) for image in images.numpy()])
        side = int(cells.shape[1] ** 0.5)
        return torch.from_numpy(cells).transpose(1, 2).unflatten(2, (side, side))
