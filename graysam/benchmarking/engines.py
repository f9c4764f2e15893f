"""What a worker can run: each engine reads a case, segments it and writes its masks, in its own way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.inference.exported_model import ExportedModel

Arrays = tuple[NDArray[Any], NDArray[Any]]  # image and boxes


@dataclass(frozen=True)
class Engine:
    """Reading, segmenting and writing, and the bundle it runs, if it runs one."""

    read: Callable[[Path], Arrays]
    segment: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
    write: Callable[[Path, NDArray[Any]], None]
    bundle: ExportedModel | None = None


def open_engine(kind: str, *, threads: int, bundle: Path | None) -> Engine:
    """Load a network and return its engine; importing what it needs is part of it.

    kind: a key of ENGINES. bundle: the folder of a bundle, for the engines that run one.
    Raises ValueError where something is missing, and what the engines' parts raise.
    """
    return ENGINES[kind](threads, bundle)


def _read(path: Path) -> Arrays:
    from graysam.io.cases import read_input_case

    case = read_input_case(path)
    return case.image, np.empty((0, 4)) if case.boxes is None else case.boxes


def _write(path: Path, segs: NDArray[Any]) -> None:
    from graysam.io.cases import write_segs

    write_segs(path, segs)


def _given(bundle: Path | None) -> Path:
    if bundle is None:
        raise ValueError("this engine runs a bundle, and none was given")
    return bundle


def _litemedsam(threads: int, bundle: Path | None) -> Engine:
    from graysam.benchmarking import litemedsam_peer

    network = litemedsam_peer.LiteMedSAM(threads)
    return Engine(
        litemedsam_peer.read,
        lambda image, boxes: litemedsam_peer.segment(image, boxes, network),
        litemedsam_peer.write,
    )


def _torch(threads: int, bundle: Path | None) -> Engine:
    """graysam's own LiteMedSAM in torch, with the peer's way from slice to slice: what the peer is checked against."""
    import torch

    from graysam.exporting.torch_backend import TorchBackend
    from graysam.imaging.presets import load_scheme
    from graysam.inference.volume import segment
    from graysam.models.pretrained import open_pretrained

    torch.set_num_threads(threads)
    found = open_pretrained("lite_medsam")
    backend = TorchBackend(found.model, device="cpu", precision="fp32")
    scheme = found.scheme or load_scheme("replicate")
    return Engine(
        _read,
        lambda image, boxes: segment(image, boxes, backend, scheme, propagation="litemedsam", size=found.size),
        _write,
    )


def _bundle(threads: int, bundle: Path | None) -> Engine:
    from graysam.inference.predictor import Predictor

    predictor = Predictor(_given(bundle), threads=threads, cache=False)
    return Engine(_read, predictor.predict, _write, predictor.exported)


def _one_box(threads: int, bundle: Path | None) -> Engine:
    from graysam.benchmarking.one_box import segment_one_by_one
    from graysam.inference.exported_model import read_exported
    from graysam.inference.openvino_backend import OpenVinoBackend

    opened = read_exported(_given(bundle))
    backend = OpenVinoBackend(opened, threads=threads, cache_dir=None)
    return Engine(
        _read,
        lambda image, boxes: segment_one_by_one(image, boxes, backend, opened.scheme, size=opened.size),
        _write,
        opened,
    )


ENGINES: Mapping[str, Callable[[int, Path | None], Engine]] = {
    "litemedsam": _litemedsam,
    "torch": _torch,
    "bundle": _bundle,
    "one_box": _one_box,
}
