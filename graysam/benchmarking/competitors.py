"""The benchmark's competitors: rows of the tables, the exported models that they run, and what their workers open."""

import contextlib
import re
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.benchmarking.harness import Worker
from graysam.benchmarking.litemedsam_script import Array, LiteMedSAM
from graysam.imaging.canvas import Canvas, prepare_image
from graysam.imaging.channels import scheme_to_dict
from graysam.inference.backend import OpenVinoBackend
from graysam.inference.exported_model import (
    ExportedModel,
    export_on_first_use,
    exported_path,
    is_exported,
    read_exported,
    write_exported,
)
from graysam.inference.predictor import Predictor
from graysam.io.cases import read_input_case
from graysam.io.image import Image, write_mask
from graysam.reporting.speed import BASELINE

PLAIN = "plain"  # graphs as converted, for one box


class Competitor(NamedTuple):
    """A row of the tables.

    Attributes:
        name: of options and results; title: in tables.
        engine: what runs it, see `Segmenter`.
        model: `lite_medsam` or `l0` where it runs an exported model; precision: of that, or `plain`.
    """

    name: str
    title: str
    engine: str
    model: str | None = None
    precision: str = ""


COMPETITORS = {
    competitor.name: competitor
    for competitor in (
        Competitor(BASELINE, "LiteMedSAM (torch)", "script"),
        Competitor("lite_int8", "graysam lite_medsam int8", "predictor", "lite_medsam", "int8"),
        Competitor("l0_fp32", "graysam L0 fp32", "predictor", "l0", "fp32"),
        Competitor("l0_bf16", "graysam L0 bf16", "predictor", "l0", "bf16"),
        Competitor("l0_int8", "graysam L0 int8", "predictor", "l0", "int8"),
        Competitor("daft", "DAFT's way (L0)", "one_box", "l0", PLAIN),
    )
}


def choose_competitors(names: Collection[str], l0: str | None, exported: Collection[str]) -> list[Competitor]:
    """Return the named competitors in the tables' order; no names take all that can run.

    L0 rows can run with their weight file `l0`, and those named in `exported` with an exported model that is given.

    Raises:
        ValueError: unknown names, or L0 rows without weights.
    """
    if unknown := [name for name in (*names, *exported) if name not in COMPETITORS]:
        raise ValueError(f"unknown competitors: {', '.join(unknown)}; available are {', '.join(COMPETITORS)}")
    able = [name for name, one in COMPETITORS.items() if one.model != "l0" or l0 or name in exported]
    if lacking := [name for name in names if name not in able]:
        raise ValueError(f"{', '.join(lacking)} need the weights of an EfficientViT-SAM-L0; give --l0 FILE")
    return [COMPETITORS[name] for name in able if name in names or not names]


def find_exported(competitor: Competitor, l0: str | None, channels: str | None, threads: int) -> Path | None:
    """Return the folder of the exported model that a competitor runs, None for one that runs none.

    A worker exports one that is not exported yet into the user's cache, which needs torch and takes minutes. Raise
    ValueError for a file that does not exist, ChildProcessError for a model that cannot be exported.
    """
    if competitor.model is None:
        return None
    model, scheme = (str(l0), channels) if competitor.model == "l0" else (competitor.model, None)
    path = exported_path(model, competitor.precision, scheme)
    if not is_exported(path):
        print(f"exporting {model} as {competitor.precision} into {path}", file=sys.stderr, flush=True)
        options = {"model": model, "precision": competitor.precision, "channels": scheme}
        with Worker(f"{__name__}:export", threads=threads, **options):
            pass
    return path


def export(threads: int, model: str, precision: str, channels: str | None) -> None:
    """Export a model with torch into the user's cache; `plain` as DAFT did, for one box."""
    if precision != PLAIN:
        export_on_first_use(model, precision, channels, threads)
        return
    from graysam.exporting.conversion import convert_plain, save_graphs
    from graysam.exporting.torch_backend import open_with_scheme

    found, scheme = open_with_scheme(model, channels)
    description = {
        "name": Path(model).stem,
        "kind": "fp32",
        "precision": None,  # OpenVINO's own choice
        "size": found.size,
        "channels": scheme_to_dict(scheme),
    }
    write_graphs = partial(save_graphs, convert_plain(found.model), half_precision=False)
    write_exported(exported_path(model, precision, channels), description=description, write_graphs=write_graphs)


class OneBoxScript(LiteMedSAM):
    """Plain OpenVINO graphs for one box in the script's loop, as DAFT ran them (Pfefferle et al. 2024).

    Encoder and decoder of EfficientViT-SAM-L0 as converted, at OpenVINO's default precision.
    """

    encodes_once = True

    def __init__(self, threads: int, exported: ExportedModel) -> None:
        cv2.setNumThreads(threads)
        self.backend = OpenVinoBackend(exported, threads=threads, cache_dir=None)
        self.scheme, self.size = exported.scheme, exported.size

    def embed(self, image: Array) -> Array:
        """Return the embedding of a native image."""
        return self.backend.encode(prepare_image(image, self.scheme, self.size)[None])[0]

    def mask(self, embedding: Array, box: Array, native: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the native mask (H,W) of a box (4,) on the grid."""
        logits = self.backend.decode(embedding, box[None].astype(np.float32))[0][0]
        canvas = Canvas(*native, self.size)
        valid = logits[: canvas.resized_height, : canvas.resized_width]
        return np.asarray(cv2.resize(valid, native[::-1], interpolation=cv2.INTER_LINEAR) > 0)


class Segmenter:
    """What a worker opens: reads a case, segments it and writes its masks.

    Args:
        threads: of the CPU.
        engine: `script`, `one_box` or `predictor`.
        exported: the exported model's folder where the engine runs one.
        zoom, walk: of the engine `predictor`, see `Predictor`.
    """

    def __init__(self, threads: int, engine: str, exported: str = "", zoom: str = "off", walk: str = "slices") -> None:
        if engine == "predictor":
            options: dict[str, Any] = {"threads": threads, "cache": False, "zoom": zoom, "walk": walk}
            self._segment: Callable[[Image, Array], Array] = Predictor(exported, **options).predict
        else:
            script = LiteMedSAM(threads) if engine == "script" else OneBoxScript(threads, read_exported(exported))
            self._segment = lambda image, boxes: script.segment(image.pixels, boxes)
        self._case: Any = None
        self._masks: Any = None

    def read(self, path: str) -> None:
        """Read a case into memory; on Linux, the peak of memory counts from here."""
        self._case = self._masks = None
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to the present size
        self._case = read_input_case(path)

    def segment(self) -> None:
        """Segment the case in memory, from arrays to masks."""
        self._masks = None
        self._masks = self._segment(self._case.image, self._case.boxes)

    def write(self, path: str) -> dict[str, Any]:
        """Write the last masks; `peak_bytes` is the peak of resident memory, None where the system is not Linux."""
        write_mask(path, self._masks)
        status = Path("/proc/self/status")
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
        return {"peak_bytes": int(peak[1]) * 1024 if peak else None}
