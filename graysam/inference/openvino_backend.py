"""The OpenVINO backend of the volume engine: a bundle behind `encode` and `decode`, without torch."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graysam.inference.exported_model import ExportedModel
from graysam.inference.model_cache import compile_cached
from graysam.inference.openvino_core import has_bf16, open_core

if TYPE_CHECKING:
    import openvino

CELL_PIXELS = 4  # grid pixels a cell of the embedding, each way
Float32 = NDArray[np.float32]
Floating = NDArray[np.floating[Any]]


class OpenVinoBackend:
    """Runs a bundle's graphs on the CPU. Not for several threads at once: every graph has one request.

    Args:
        bundle: of a kind that OpenVINO runs.
        threads: of the CPU; None leaves the choice to OpenVINO.
        cache_dir: folder of compiled graphs; None compiles them each time.

    Raises:
        ValueError: a bundle of another kind, or graphs that OpenVINO cannot compile here.
    """

    def __init__(self, bundle: ExportedModel, *, threads: int | None, cache_dir: Path | None) -> None:
        if bundle.kind == "onnx":
            raise ValueError(f"{bundle.path} is an ONNX bundle; OpenVINO runs bundles of kind fp32, bf16 or int8")
        core = open_core()
        properties = _properties(core, bundle.precision, threads)

        def load(name: str) -> "tuple[str, openvino.InferRequest]":
            # Sines of positions need float32.
            own = {**properties, "INFERENCE_PRECISION_HINT": "f32"} if name == "box_tokens" else properties
            try:
                compiled = compile_cached(core, bundle.graphs[name], own, cache_dir, bundle.digest(name))
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"OpenVINO cannot run {bundle.graphs[name]}: {reason}") from error
            return name, compiled.create_infer_request()

        with ThreadPoolExecutor() as pool:  # side by side, the longest first
            names = sorted(bundle.graphs, key=lambda name: name != "encoder")
            self._requests: dict[str, openvino.InferRequest] = dict(pool.map(load, names))
        self._size = bundle.size

    def encode(self, images: Float32) -> Floating:
        """Embed images: float32 (B,3,S,S) in [0,1] -> (B, ...), float16 or float32, a fresh array each call."""
        request = self._requests["encoder"]
        shape = request.get_output_tensor().shape
        embeddings = np.empty((len(images), *shape[1:]), request.get_output_tensor().data.dtype)
        for image, embedding in zip(images, embeddings, strict=True):
            request.infer({"images": np.ascontiguousarray(image[None])}, share_inputs=True)
            embedding[...] = request.get_output_tensor().data[0]
        return embeddings

    def decode(
        self, embedding: Floating, boxes_256: Float32, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32, Float32]:
        """Segment one embedded image: one of `encode`'s, boxes (N,4) on the grid -> logits (N,R,C), iou (N,).

        valid_size: rows and columns of the grid that the image covers; R and C are those in cells of 4 pixels, or S.
        Both arrays are good until the next call.
        """
        boxes = np.ascontiguousarray(boxes_256, np.float32)
        if "decoder" in self._requests:
            return self._decode_plainly(embedding, boxes)
        tokens, decoder = self._requests["box_tokens"], self._requests["box_decoder"]
        tokens.infer({"boxes": boxes}, share_inputs=True)
        decoder.set_tensor("tokens", tokens.get_tensor("tokens"))
        rows, columns = valid_size or (self._size, self._size)
        cells = np.array([-(-rows // CELL_PIXELS), -(-columns // CELL_PIXELS)], np.int64)
        decoder.infer({"embedding": np.ascontiguousarray(embedding[None]), "valid_size": cells}, share_inputs=True)
        return decoder.get_tensor("logits").data, decoder.get_tensor("iou").data

    def _decode_plainly(self, embedding: Floating, boxes: Float32) -> tuple[Float32, Float32]:
        decoder = self._requests["decoder"]
        logits, iou = [], []
        for box in boxes:  # the graph takes one
            decoder.infer({"embedding": embedding[None], "boxes": box[None]}, share_inputs=True)
            logits.append(decoder.get_tensor("logits").data[0].copy())
            iou.append(decoder.get_tensor("iou").data[0].copy())
        return np.stack(logits), np.stack(iou)


def _properties(core: "openvino.Core", precision: str | None, threads: int | None) -> dict[str, Any]:
    """Return OpenVINO's properties; without a precision it takes its own default, which is bf16 where there is any."""
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        properties["INFERENCE_PRECISION_HINT"] = precision if has_bf16(core) else "f32"
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    return properties
