"""Segmentation networks behind two calls, `encode` and `decode`, with NumPy arrays at the border."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from graysam.inference.exported_model import ExportedModel
from graysam.inference.openvino_core import compile_cached, has_bf16, open_core, thread_properties

if TYPE_CHECKING:
    import openvino

FloatArray = npt.NDArray[np.floating[Any]]
Float32Array = npt.NDArray[np.float32]

BOX_BATCH = 8  # boxes decoded in one call; more at once leave the cache
TOKEN_PIXELS = 4  # grid pixels an embedding token covers, each way


class Backend(Protocol):
    """A segmentation network with NumPy at the border; `size` is the side of its square input in pixels."""

    def encode(self, images: Float32Array) -> FloatArray:
        """Embed images.

        Args:
            images: float32 (B, 3, size, size) in [0, 1].

        Returns:
            (B, ...) of any float dtype and shape; may be overwritten by the next call.
        """

    def decode(
        self, embedding: FloatArray, grid_boxes: Float32Array, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """Segment one image.

        Args:
            embedding: one that `encode` returned, or a copy of it.
            grid_boxes: (N, 4) on the grid.
            valid_size: rows and columns of the grid that the image covers; None for all.

        Returns:
            Logits float32 (N, size, size), which may end after `valid_size`, and predicted IoU float32 (N,). Both may
            be overwritten by the next call.
        """


def decode_all(
    backend: Backend, embedding: FloatArray, grid_boxes: Float32Array, valid_size: tuple[int, int] | None = None
) -> Iterator[tuple[Float32Array, float]]:
    """Yield each box's logits, which hold until the next ones are asked for, and predicted IoU, in order.

    The arguments are those of `Backend.decode`, which gets at most BOX_BATCH boxes in one call, and none for no boxes.

    Raises:
        ValueError: logits that are not finite, which would look like an empty mask.
    """
    for start in range(0, len(grid_boxes), BOX_BATCH):
        logits, iou = backend.decode(embedding, grid_boxes[start : start + BOX_BATCH], valid_size)
        if not np.isfinite(logits.sum()):  # one pass without an array of its own
            raise ValueError("the model answers with NaN or infinity; required: finite logits; check its weights")
        yield from zip(logits, iou.tolist(), strict=True)


class OpenVinoBackend:
    """Runs an exported model's graphs on the CPU. Not for several threads at once: every graph has one request.

    Args:
        exported: of the format openvino.
        threads: of the CPU; None leaves the choice to OpenVINO.
        cache_dir: folder of compiled graphs; None compiles them each time.

    Raises:
        ValueError: graphs that OpenVINO cannot compile here.
    """

    def __init__(self, exported: ExportedModel, *, threads: int | None, cache_dir: Path | None) -> None:
        core = open_core()
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", **thread_properties(threads)}
        if exported.precision_hint is not None:  # without one OpenVINO takes bf16 where the CPU has it
            properties["INFERENCE_PRECISION_HINT"] = exported.precision_hint if has_bf16(core) else "f32"

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

    def encode(self, images: Float32Array) -> FloatArray:
        """Embed images: float32 (B, 3, S, S) in [0, 1] -> (B, ...), float16 or float32, a new array each call."""
        request = self._requests["encoder"]
        output = request.get_output_tensor()
        embeddings = np.empty((len(images), *output.shape[1:]), output.data.dtype)
        for image, embedding in zip(images, embeddings, strict=True):
            request.infer({"images": np.ascontiguousarray(image[None])}, share_inputs=True)
            embedding[...] = request.get_output_tensor().data[0]
        return embeddings

    def decode(
        self, embedding: FloatArray, grid_boxes: Float32Array, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """Segment one embedded image: boxes (N, 4) on the grid -> logits (N, R, C), iou (N,), until the next call.

        R and C are the rows and columns of `valid_size`, rounded up to whole embedding tokens of 4 pixels, or S.
        """
        boxes = np.ascontiguousarray(grid_boxes, np.float32)
        if decoder := self._requests.get("decoder"):
            logits, iou = [], []
            for box in boxes:  # the graph takes one
                decoder.infer({"embedding": embedding[None], "boxes": box[None]}, share_inputs=True)
                logits.append(decoder.get_tensor("logits").data[0].copy())
                iou.append(decoder.get_tensor("iou").data[0].copy())
            return np.stack(logits), np.stack(iou)
        tokens, decoder = self._requests["box_tokens"], self._requests["box_decoder"]
        tokens.infer({"boxes": boxes}, share_inputs=True)
        decoder.set_tensor("tokens", tokens.get_tensor("tokens"))
        rows, columns = valid_size or (self._size, self._size)
        tokens_covered = np.array([-(-rows // TOKEN_PIXELS), -(-columns // TOKEN_PIXELS)], np.int64)
        decoder.infer(
            {"embedding": np.ascontiguousarray(embedding[None]), self._size_input: tokens_covered}, share_inputs=True
        )
        return decoder.get_tensor("logits").data, decoder.get_tensor("iou").data


class OnnxBackend:
    """Runs an exported model's ONNX graphs on the CPU.

    Args:
        exported: of the format onnx.
        threads: of the CPU; None leaves the choice to ONNX Runtime.

    Raises:
        ValueError: ONNX Runtime is not installed, or it cannot run the graphs.
    """

    def __init__(self, exported: ExportedModel, *, threads: int | None) -> None:
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

    def encode(self, images: Float32Array) -> Float32Array:
        """Embed images: float32 (B, 3, S, S) in [0, 1] -> (B, ...) float32."""
        encoder = self._sessions["encoder"]
        embeddings = [encoder.run(["embedding"], {"images": image[None]})[0] for image in images]  # the graph takes one
        return np.concatenate(embeddings)

    def decode(
        self, embedding: FloatArray, grid_boxes: Float32Array, valid_size: tuple[int, int] | None = None
    ) -> tuple[Float32Array, Float32Array]:
        """Segment one embedded image: boxes (N, 4) on the grid -> all logits (N, S, S), iou (N,)."""
        logits, iou = self._sessions["decoder"].run(
            ["logits", "iou"], {"embedding": embedding[None], "boxes": np.asarray(grid_boxes, np.float32)}
        )
        return logits, iou
