"""The ONNX Runtime backend of the volume engine: an ONNX bundle behind `encode` and `decode`, without torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.inference.exported_model import ExportedModel

Float32 = NDArray[np.float32]


class OnnxBackend:
    """Runs a bundle's ONNX graphs on the CPU.

    Args:
        bundle: of kind onnx.
        threads: of the CPU; None leaves the choice to ONNX Runtime.

    Raises:
        ValueError: a bundle of another kind, ONNX Runtime is not installed, or it cannot run the graphs.
    """

    def __init__(self, bundle: ExportedModel, *, threads: int | None) -> None:
        if bundle.kind != "onnx":
            raise ValueError(f"{bundle.path} is a bundle of kind {bundle.kind}; ONNX Runtime runs those of kind onnx")
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(f"{bundle.path} needs onnxruntime: pip install '.[quantize]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        # Between two calls the cores belong to others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._sessions: dict[str, Any] = {}
        for name in ("encoder", "decoder"):
            path = bundle.graphs[name]
            try:
                self._sessions[name] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # its errors have no class in common but this
                raise ValueError(f"ONNX Runtime cannot run {path}: {str(error).splitlines()[0]}") from error

    def encode(self, images: Float32) -> Float32:
        """Embed images: float32 (B,3,S,S) in [0,1] -> (B, ...) float32."""
        encoder = self._sessions["encoder"]
        embeddings = [encoder.run(["embedding"], {"images": image[None]})[0] for image in images]  # the graph takes one
        return np.concatenate(embeddings)

    def decode(
        self, embedding: Float32, boxes_256: Float32, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32, Float32]:
        """Segment one embedded image: one of `encode`'s, boxes (N,4) on the grid -> logits (N,S,S), iou (N,).

        valid_size: rows and columns that the image covers; this backend gives all logits whatever it is.
        """
        logits, iou = self._sessions["decoder"].run(
            ["logits", "iou"], {"embedding": embedding[None], "boxes": np.asarray(boxes_256, np.float32)}
        )
        return logits, iou
