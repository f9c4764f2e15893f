"""Segmenting from a program of one's own: a model in memory, images and boxes in, masks out. Needs no torch."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from graysam.imaging.presets import load_scheme
from graysam.inference.exported_model import ExportedModel
from graysam.inference.locating import open_exported
from graysam.inference.volume import Propagation, segment
from graysam.system.folders import user_cache_dir


class Predictor:
    """A model ready to segment on the CPU.

    from graysam.inference.predictor import Predictor

    predictor = Predictor("graysam_l0")
    masks = predictor.predict(image, [[20, 30, 80, 90]])

    Args:
        model: a model that comes with graysam, `graysam_l0` or `lite_medsam`; a bundle's folder, as
            `python -m graysam.export` writes it; or the name or weight file of a model that was exported into the
            user's cache before.
        precision: `fp32`, `bf16` or `int8`; None takes a bundle's own, and int8 otherwise.
        threads: CPU threads, of OpenVINO for this predictor and of OpenCV for the whole process; None leaves both
            numbers as they are: OpenVINO takes the physical cores, OpenCV all.
        channels: a scheme of `conf/channels` instead of the one the model was trained on.
        cache: keep the compiled model in the user's cache folder, which halves the next start. Harmless where that
            folder cannot be written.

    Several sessions may live in one process. One predictor may be called from several threads, but segments one case
    at a time: a second thread gains nothing and should wait in its own program instead.

    Raises:
        ValueError: no such model, a damaged bundle or one for other engines, a kind that is not there, less than one
            thread, unknown channels; always one line that says what to do.
    """

    def __init__(
        self,
        model: str | Path = "graysam_l0",
        *,
        precision: str | None = None,
        threads: int | None = None,
        channels: str | None = None,
        cache: bool = True,
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; required: at least 1, or None for OpenVINO's own choice")
        scheme = None if channels is None else load_scheme(channels)
        self.exported: ExportedModel = open_exported(str(model), precision, channels)
        self.scheme = scheme or self.exported.scheme

        from graysam.inference.openvino_backend import OpenVinoBackend  # OpenVINO itself, once all else is known good

        self.backend = OpenVinoBackend(self.exported, threads=threads, cache_dir=_cache_dir() if cache else None)
        if threads is not None:
            cv2.setNumThreads(threads)
        self._lock = threading.Lock()

    def predict(
        self,
        image: npt.NDArray[Any],
        boxes: npt.ArrayLike,
        *,
        propagation: Propagation = "own",
        z_max_inclusive: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.uint16]:
        """Segment what boxes hold.

        image: (H, W) or RGB (H, W, 3) with boxes (N, 4) x_min, y_min, x_max, y_max; or (D, H, W) with boxes (N, 6)
        x_min, y_min, z_min, x_max, y_max, z_max; inclusive native pixel indices. Best uint8; other dtypes are scaled
        by the minimum and maximum of the whole array, so window a CT before. z_max_inclusive: whether z_max is the
        last slice of a box or the first behind it. propagation: where the boxes of further slices come from, `own`, or
        `litemedsam` to reproduce that script. progress(done, total) counts slices.

        Returns uint16 (H, W) or (D, H, W): 0 is background, k the k-th box, later boxes over earlier ones; no boxes
        give zeros. Raises ValueError for arrays that do not fit each other or that hold no finite numbers.
        """
        with self._lock:
            return segment(
                image,
                boxes,
                self.backend,
                self.scheme,
                propagation=propagation,
                z_max_inclusive=z_max_inclusive,
                size=self.exported.size,
                progress=progress,
            )


def _cache_dir() -> Path | None:
    """Return the folder of compiled models; None where the user has no place for a cache."""
    try:
        return user_cache_dir() / "compiled"
    except ValueError:
        return None
