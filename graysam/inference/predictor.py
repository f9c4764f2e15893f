"""The one way to segment: a model in memory, images and boxes in, masks out. Imports no torch unless asked for."""

import importlib
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from graysam.imaging.channels import Scheme, load_scheme
from graysam.imaging.zoom import load_zoom
from graysam.inference.axes import load_walk
from graysam.inference.backend import Backend, OnnxBackend, OpenVinoBackend
from graysam.inference.exported_model import ExportedModel, open_exported, shipped_models
from graysam.inference.segmentation import PromptMask, Segmentation
from graysam.inference.walk import Propagation
from graysam.io.image import Image
from graysam.system.environment import check_extra, user_cache_dir
from graysam.system.terminal import check_at_least

BackendName = Literal["openvino", "torch", "onnxruntime"]


class Predictor:
    """A model ready to segment.

        predictor = graysam.Predictor("graysam_l0")
        labels = predictor.predict(image, [[20, 30, 80, 90]])

    Args:
        model: a model that comes with graysam, `graysam_l0` or `lite_medsam`; an exported model's folder; or a
            checkpoint, `.safetensors`, `.pth` or `.pt` file.
        backend: what runs it. `openvino` and `onnxruntime` run exported models of their format, also those that were
            exported into the user's cache before, on the CPU; `torch` runs weight files and needs the extra train. None
            takes an exported model where there is one, and torch for weight files and where a device is given.
        precision: `fp32`, `bf16` or, of exported models, `int8`; None takes an exported model's own, int8 for names,
            and fp32 with torch.
        channels: a scheme of `conf/channels` instead of the one the model was trained on.
        threads: CPU threads, of the backend and of OpenCV for the whole process; None leaves both numbers as they are.
        device: of the torch backend, e.g. `cuda`; None is the CPU.
        cache: keep what OpenVINO compiled in the user's cache folder, which halves the next start.
        zoom: how closely boxes are looked at: `off`, on the whole image; a preset of `conf/zoom`, e.g. `auto`, which is
            `off` for LiteMedSAM; or a number, the side of the window around a box in longer sides of the box.
        walk: how a volume is gone through: `slices`; `three_axes`, of which two have to agree; or `auto`, along all
            axes where that helps (`conf/walk`).

    Attributes:
        backend: the network's `encode` and `decode`.
        scheme: the channels that it takes.
        size (int): side of its square input in pixels.
        name (str): the model's.
        precision (str): `fp32`, `bf16` or `int8`.
        description (str): one line for a log: the model and where it comes from.
        zoom (Zoom | None): the rule that gives boxes views of their own.
        axes (AxesRule | None): the rule that decides which objects of a volume are walked along all axes.

    One may be called from several threads, and segments one image at a time.

    Raises:
        ValueError: in one line: no such model, a damaged one or one for other backends, a precision or device that is
            not available, less than one thread, unknown channels, a missing extra.
    """

    def __init__(
        self,
        model: str | Path = "graysam_l0",
        *,
        backend: BackendName | None = None,
        precision: str | None = None,
        channels: str | None = None,
        threads: int | None = None,
        device: str | None = None,
        cache: bool = True,
        zoom: str | float = "auto",
        walk: str = "slices",
    ) -> None:
        check_at_least(1, "threads", threads)
        self.axes = load_walk(walk)
        load_zoom(zoom)  # refused before a model is loaded
        self.backend: Backend
        self.scheme: Scheme
        if choose_backend(model, backend=backend, precision=precision, device=device) == "torch":
            check_extra("train")
            torch_backend: Any = importlib.import_module("graysam.exporting.torch_backend")
            self.backend, self.scheme, self.size, self.description = torch_backend.open_torch_backend(
                str(model), channels=channels, precision=precision, device=device, threads=threads
            )
            self.name, self.precision = Path(model).stem, precision or "fp32"
        else:
            scheme = None if channels is None else load_scheme(channels)
            exported = open_exported(str(model), precision, channels, onnx=backend == "onnxruntime")
            self.backend = _run_exported(exported, backend, threads, cache)
            self.scheme, self.size = scheme or exported.scheme, exported.size
            self.name, self.precision = exported.name, exported.precision
            self.description = f"{exported.name} {exported.precision} from {exported.path}"
        self.zoom = load_zoom(zoom, self.name)
        self.description += f", zoom {'off' if self.zoom is None else zoom}, walk {walk}"
        if threads is not None:
            cv2.setNumThreads(threads)
        self._options: dict[str, Any] = {"backend": self.backend, "scheme": self.scheme, "size": self.size}
        self._options |= {"zoom": self.zoom, "axes": self.axes}
        self._lock = threading.Lock()

    def predict(
        self,
        image: npt.NDArray[Any] | Image,
        boxes: npt.ArrayLike,
        *,
        propagation: Propagation = "own",
        z_max_inclusive: bool = True,
    ) -> npt.NDArray[np.uint16]:
        """Segment the object in each box into one array of labels.

        Args:
            image: an Image, or an array (H, W), RGB (H, W, 3) or a volume (D, H, W). Best uint8; other dtypes are
                scaled by the minimum and maximum of the whole array, so window a CT before.
            boxes: (N, 4) x_min, y_min, x_max, y_max, or with a volume (N, 6) x_min, y_min, z_min, x_max, y_max, z_max;
                inclusive pixel indices of the stored array. A box partly outside is clipped, with a warning.
            propagation: where the boxes of a volume's further slices come from, `own`, or `litemedsam` to reproduce
                that script, on whole images.
            z_max_inclusive: whether z_max is the last slice of a box, or the first one after it.

        Returns:
            uint16 (H, W) or (D, H, W): 0 is background, k the k-th box, later boxes over earlier ones; no boxes give
            zeros.

        Raises:
            ValueError: arrays that do not fit each other, or a box that is inverted, wholly outside or not finite.
        """
        options = self._options | {"propagation": propagation, "z_max_inclusive": z_max_inclusive}
        with self._lock:
            return Segmentation(image, boxes, **options).labels()

    def predict_masks(self, image: npt.NDArray[Any] | Image, boxes: npt.ArrayLike, **options: Any) -> list[PromptMask]:
        """Segment the object in each box into one mask a box, with its logits and predicted IoU; masks may overlap.

        The arguments are those of `predict`, and painting the masks in order gives its labels. A volume's masks take a
        byte a voxel and box.
        """
        with self._lock:
            return Segmentation(image, boxes, **self._options, **options).masks()


def choose_backend(
    model: str | Path, *, backend: BackendName | None = None, precision: str | None = None, device: str | None = None
) -> BackendName:
    """Return the backend that runs a model; the arguments are those of `Predictor`, and nothing is loaded.

    Without one given, openvino where an exported model exists or is asked for, as int8 always is, and torch otherwise.

    Raises:
        ValueError: the backend cannot run what is asked for.
    """
    if backend is None:
        shipped = shipped_models().get(str(model), [])
        exported = Path(model).is_dir() or precision == "int8" or (precision in shipped if precision else bool(shipped))
        backend = "openvino" if exported and device is None else "torch"
    if backend != "torch":
        if device not in (None, "cpu"):
            raise ValueError(f"device {device} needs the backend torch; {backend} runs on the CPU")
    elif precision not in (None, "fp32", "bf16"):
        raise ValueError(f"precision {precision} needs the backend openvino; torch has fp32 and bf16")
    elif Path(model).is_dir():
        raise ValueError(
            f"{model} is a directory, and exported models need the backend openvino; give torch a weight file"
        )
    elif Path(model).suffix and not Path(model).is_file():
        raise ValueError(f"weight file {model} does not exist; give one, an exported model's directory, or a name")
    return backend


def _run_exported(exported: ExportedModel, backend: str | None, threads: int | None, cache: bool) -> Backend:
    """Open a backend on an exported model, by its format where none is given."""
    required = {"openvino": "openvino", "onnxruntime": "onnx"}.get(backend or "", exported.format)
    if exported.format != required:
        raise ValueError(f"{exported.path} has the format {exported.format}; required: {required}")
    if required == "onnx":
        return OnnxBackend(exported, threads=threads)
    cache_dir = None
    if cache:
        with suppress(ValueError):  # a user without a place for a cache
            cache_dir = user_cache_dir() / "compiled"
    return OpenVinoBackend(exported, threads=threads, cache_dir=cache_dir)
