"""The ONNX Runtime backend: an exported model in the ONNX format behind `encode` and `decode`, without torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.inference.exported_model import ExportedModel

Float32 = NDArray[np.float32]


class OnnxBackend:
    """Runs an exported model's ONNX graphs on the CPU.

    Args:
        exported: of the format onnx.
        threads: of the CPU; None leaves the choice to ONNX Runtime.

    Raises:
        ValueError: another format, ONNX Runtime is not installed, or it cannot run the graphs.
    """

    def __init__(self, exported: ExportedModel, *, threads: int | None) -> None:
        if exported.format != "onnx":
            raise ValueError(
                f"{exported.path} has the format {exported.format}; required: onnx (graysam export --format onnx)"
            )
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f"{exported.path} needs onnxruntime: pip install '.[quantize]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        # Threads that wait between two calls would keep the cores busy.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._sessions: dict[str, Any] = {}
        for name in ("encoder", "decoder"):
            path = exported.graphs[name]
            try:
                self._sessions[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # its errors have no class in common but this
                raise ValueError(f"ONNX Runtime cannot run {path}: {str(error).splitlines()[0]}") from error

    def encode(self, images: Float32) -> Float32:
        """Embed images: float32 (B, 3, S, S) in [0, 1] -> (B, ...) float32."""
        encoder = self._sessions["encoder"]
        embeddings = [encoder.run(["embedding"], {"images": image[None]})[0] for image in images]  # the graph takes one
        return np.concatenate(embeddings)

    def decode(
        self, embedding: Float32, grid_boxes: Float32, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32, Float32]:
        """Segment one embedded image: boxes (N, 4) on the grid -> all logits (N, S, S), iou (N,)."""
        logits, iou = self._sessions["decoder"].run(
            ["logits", "iou"], {"embedding": embedding[None], "boxes": np.asarray(grid_boxes, np.float32)}
        )
        return logits, iou
