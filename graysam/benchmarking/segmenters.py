"""What the benchmark's workers open: programs that read a case, segment it and write its masks, each in its own way."""

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray

from graysam.benchmarking.script_loop import Array, segment
from graysam.imaging.canvas import Canvas, prepare_image
from graysam.imaging.channels import Scheme
from graysam.inference.backend import Backend
from graysam.inference.predictor import Predictor
from graysam.io.cases import read_input_case
from graysam.io.image import write_mask

_PROC = Path("/proc/self")


class Segmenter:
    """Answers a worker's requests with one case in memory at a time; `segment` turns image and boxes into masks."""

    def __init__(self, segment: Callable[[Array, Array], Array]) -> None:
        self._segment = segment
        self._case: tuple[Array, Array] | None = None
        self._masks: Any = None

    def read(self, path: str) -> dict[str, Any]:
        """Read a case into memory; the peak of memory counts from here."""
        self._case = self._masks = None
        reset_peak()
        start = time.perf_counter()
        case = read_input_case(path)
        self._case = case.image.pixels, np.empty((0, 4)) if case.boxes is None else case.boxes
        return {"seconds": time.perf_counter() - start}

    def segment(self) -> dict[str, Any]:
        """Segment the case in memory, from arrays to masks."""
        assert self._case is not None, "read first"
        self._masks = None
        start = time.perf_counter()
        self._masks = self._segment(*self._case)
        return {"seconds": time.perf_counter() - start}

    def write(self, path: str) -> dict[str, Any]:
        """Write the last masks."""
        start = time.perf_counter()
        write_mask(path, self._masks)
        return {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes()}


def reset_peak() -> bool:
    """Let the peak of resident memory count from now on; False where the system cannot."""
    try:
        (_PROC / "clear_refs").write_text("5")  # Linux: sets VmHWM to the present size
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Return the peak of resident memory in bytes, None where the system does not report it."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (_PROC / "status").read_text())
    except OSError:
        peak: int | None = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
        return peak
    return int(found[1]) * 1024 if found else None


def open_predictor(threads: int, exported: str) -> Segmenter:
    """Open graysam's predictor on an exported model."""
    return Segmenter(Predictor(exported, threads=threads, cache=False).predict)


def open_script(threads: int) -> Segmenter:
    """Open LiteMedSAM's inference script."""
    from graysam.benchmarking.litemedsam_script import LiteMedSAM

    network = LiteMedSAM(threads)
    return Segmenter(lambda image, boxes: segment(image, boxes, network))


def open_reference(threads: int) -> Segmenter:
    """Open graysam's LiteMedSAM in float32 torch with the script's propagation: the script's masks must equal its."""
    predictor = Predictor("lite_medsam", backend="torch", threads=threads)
    return Segmenter(partial(predictor.predict, propagation="litemedsam"))


class OneBoxNetwork:
    """Plain OpenVINO graphs for one box in the script's loop, as DAFT ran them (Pfefferle et al. 2024).

    Encoder and decoder of EfficientViT-SAM-L0 as converted, at OpenVINO's default precision.
    """

    def __init__(self, backend: Backend, scheme: Scheme, size: int) -> None:
        self.backend, self.scheme, self.size = backend, scheme, size

    def embed(self, image: Array) -> Array:
        """Return the embedding of a native image."""
        return self.backend.encode(prepare_image(image, self.scheme, self.size)[None])[0]

    def mask(self, embedding: Array, box: Array, native: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the native mask (H,W) of a box (4,) on the grid."""
        logits = self.backend.decode(embedding, box[None].astype(np.float32))[0][0]
        canvas = Canvas(*native, self.size)
        valid = logits[: canvas.resized_height, : canvas.resized_width]
        return np.asarray(cv2.resize(valid, native[::-1], interpolation=cv2.INTER_LINEAR) > 0)


def open_one_box(threads: int, exported: str) -> Segmenter:
    """Open the winners' loop on an exported model of plain graphs."""
    from graysam.inference.exported_model import read_exported
    from graysam.inference.openvino_backend import OpenVinoBackend

    opened = read_exported(exported)
    backend = OpenVinoBackend(opened, threads=threads, cache_dir=None)
    network = OneBoxNetwork(backend, opened.scheme, opened.size)
    return Segmenter(lambda image, boxes: segment(image, boxes, network, keep_embeddings=True))
