"""The OpenVINO backend: an exported model behind `encode` and `decode`, without torch."""

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

TOKEN_PIXELS = 4  # grid pixels an embedding token covers, each way
Float32 = NDArray[np.float32]
Floating = NDArray[np.floating[Any]]


class OpenVinoBackend:
    """Runs an exported model's graphs on the CPU. Not for several threads at once: every graph has one request.

    Args:
        exported: of the format openvino.
        threads: of the CPU; None leaves the choice to OpenVINO.
        cache_dir: folder of compiled graphs; None compiles them each time.

    Raises:
        ValueError: another format, or graphs that OpenVINO cannot compile here.
    """

    def __init__(self, exported: ExportedModel, *, threads: int | None, cache_dir: Path | None) -> None:
        if exported.format != "openvino":
            raise ValueError(
                f"{exported.path} has the format {exported.format}; required: openvino "
                "(graysam export --format openvino)"
            )
        core = open_core()
        properties = _properties(core, exported.precision_hint, threads)

        def load(name: str) -> "tuple[str, openvino.InferRequest]":
            # Sines of positions need float32.
            own = {**properties, "INFERENCE_PRECISION_HINT": "f32"} if name == "box_tokens" else properties
            try:
                compiled = compile_cached(core, exported.graphs[name], own, cache_dir, exported.digest(name))
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"OpenVINO cannot run {exported.graphs[name]}: {reason}") from error
            return name, compiled.create_infer_request()

        with ThreadPoolExecutor() as pool:  # in parallel, the slowest first
            names = sorted(exported.graphs, key=lambda name: name != "encoder")
            self._requests: dict[str, openvino.InferRequest] = dict(pool.map(load, names))
        self._size = exported.size
        if decoder := self._requests.get("box_decoder"):
            inputs = {port.get_any_name() for port in decoder.get_compiled_model().inputs}
            (self._size_input,) = inputs - {"tokens", "embedding"}  # valid_size, in older exports `covered`

    def encode(self, images: Float32) -> Floating:
        """Embed images: float32 (B, 3, S, S) in [0, 1] -> (B, ...), float16 or float32, a new array each call."""
        request = self._requests["encoder"]
        shape = request.get_output_tensor().shape
        embeddings = np.empty((len(images), *shape[1:]), request.get_output_tensor().data.dtype)
        for image, embedding in zip(images, embeddings, strict=True):
            request.infer({"images": np.ascontiguousarray(image[None])}, share_inputs=True)
            embedding[...] = request.get_output_tensor().data[0]
        return embeddings

    def decode(
        self, embedding: Floating, grid_boxes: Float32, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32, Float32]:
        """Segment one embedded image: boxes (N, 4) on the grid -> logits (N, R, C), iou (N,), until the next call.

        R and C are the rows and columns of `valid_size`, rounded up to whole embedding tokens of 4 pixels, or S.
        """
        boxes = np.ascontiguousarray(grid_boxes, np.float32)
        if "decoder" in self._requests:
            return self._decode_one_by_one(embedding, boxes)
        tokens, decoder = self._requests["box_tokens"], self._requests["box_decoder"]
        tokens.infer({"boxes": boxes}, share_inputs=True)
        decoder.set_tensor("tokens", tokens.get_tensor("tokens"))
        rows, columns = valid_size or (self._size, self._size)
        tokens_covered = np.array([-(-rows // TOKEN_PIXELS), -(-columns // TOKEN_PIXELS)], np.int64)
        decoder.infer(
            {"embedding": np.ascontiguousarray(embedding[None]), self._size_input: tokens_covered}, share_inputs=True
        )
        return decoder.get_tensor("logits").data, decoder.get_tensor("iou").data

    def _decode_one_by_one(self, embedding: Floating, boxes: Float32) -> tuple[Float32, Float32]:
        decoder = self._requests["decoder"]
        logits, iou = [], []
        for box in boxes:  # the graph takes one
            decoder.infer({"embedding": embedding[None], "boxes": box[None]}, share_inputs=True)
            logits.append(decoder.get_tensor("logits").data[0].copy())
            iou.append(decoder.get_tensor("iou").data[0].copy())
        return np.stack(logits), np.stack(iou)


def _properties(core: "openvino.Core", precision: str | None, threads: int | None) -> dict[str, Any]:
    """Return OpenVINO's properties; without a precision it takes its own default, bf16 where the CPU has it."""
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        properties["INFERENCE_PRECISION_HINT"] = precision if has_bf16(core) else "f32"
    if threads is not None:
        properties["INFERENCE_NUM_THREADS"] = threads
    return properties
