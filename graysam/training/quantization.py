"""Compare quantization methods on one checkpoint: accuracy, speed, size, and what was really quantized."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from graysam.benchmarking.method_timing import time_methods
from graysam.data.dataset import FixedSlices, Item
from graysam.data.sampling import choose
from graysam.exporting.methods import METHODS, MethodName, PreparedModel, Target
from graysam.exporting.pipeline import read_calibration_images
from graysam.inference.backend import decode_all
from graysam.models.cost import measure_cost
from graysam.models.pretrained import open_pretrained
from graysam.reporting.schemas import FORMAT, MethodResult, QuantizationReport
from graysam.system.files import sha256_of
from graysam.system.terminal import one_line, progress
from graysam.training.run_directory import training_machine
from graysam.training.scores import Scores


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared, and how.

    Attributes:
        methods: names of `graysam.exporting.methods.METHODS`.
        threads: of the CPU, for the times.
        repeats: timed rounds.
        warmup: rounds before them.
        timing_images: images of each round.
        max_images: most images that are scored, round-robin over the groups; None for all.
        calibration_images: most training images that a method is calibrated on.

    Raises:
        ValueError: a repeated method, or a count out of range.
    """

    methods: Sequence[MethodName]
    threads: int
    repeats: int
    warmup: int
    timing_images: int
    max_images: int | None
    calibration_images: int

    def __post_init__(self) -> None:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"quantize.methods names one twice: {', '.join(self.methods)}")
        for name in ("threads", "repeats", "warmup", "timing_images", "max_images", "calibration_images"):
            value, least = getattr(self, name), 0 if name == "warmup" else 1
            if value is not None and value < least:
                raise ValueError(f"quantize.{name} is {value}; required: at least {least}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, as JSON gives them back."""
        return {**asdict(self), "methods": list(self.methods)}


def score(prepared: Mapping[str, PreparedModel], item: Item, scores: Mapping[str, Scores]) -> None:
    """Add every method's scores of one image, all with the same boxes."""
    image, boxes, masks = item.image.numpy()[None], item.boxes.numpy(), item.masks.numpy()
    for name, network in prepared.items():
        embedding = network.backend.encode(image)[0]
        for prompt, (logits, _) in enumerate(decode_all(network.backend, embedding, boxes)):
            scores[name].add(item.group, item.modality, masks[prompt], logits > 0, key=item.key, prompt=prompt)


def reasons(methods: Sequence[str]) -> dict[str, str | None]:
    """Return why each method cannot run here, None where it can."""
    return {name: METHODS[name].why_unavailable() for name in methods}


def is_current(report: QuantizationReport, settings: Settings, checkpoint_sha256: str) -> bool:
    """Return whether a report is of these weights and settings, and no method has become available since."""
    if report.format != FORMAT or report.checkpoint_sha256 != checkpoint_sha256:
        return False
    unavailable = {name: bool(reason) for name, reason in reasons(settings.methods).items()}
    stored = {name: bool(method.reason) for name, method in report.methods.items()}
    return report.settings == settings.to_dict() and stored == unavailable


def compare_methods(checkpoint: Path, items: FixedSlices, settings: Settings) -> QuantizationReport:
    """Compare quantization methods on one checkpoint's weights, without retraining.

    Args:
        checkpoint: one of graysam, which describes its model.
        items: held-out slices with their boxes.
        settings: methods and counts.

    Raises:
        ValueError: the checkpoint cannot be used.
        ChildProcessError: the timing process failed.
    """
    found = open_pretrained(str(checkpoint))
    unavailable = reasons(settings.methods)
    prepared: dict[str, PreparedModel] = {}
    draw = partial(
        read_calibration_images, items.reader, settings.calibration_images, scheme=items.scheme, size=found.size
    )
    images = cache(draw)
    groups = items.reader.index.groups[items.rows]
    timed = [items[i] for i in choose(groups, settings.timing_images)]
    with tempfile.TemporaryDirectory(prefix="graysam_quantization_") as folder:
        for name in [name for name, reason in unavailable.items() if reason is None]:
            target = Target(Path(folder) / name, items.scheme, images)
            try:
                prepared[name] = METHODS[name].prepare(found.model, target)
            except Exception as error:  # whatever a library cannot do with this model: the others still count
                unavailable[name] = f"failed on this model: {one_line(error)[:200]}"
        scored = choose(groups, settings.max_images) if prepared else []
        scores = {name: Scores() for name in prepared}
        objects = 0
        for i in progress(scored, "scoring every method"):
            item = items[i]
            objects += len(item.boxes)
            score(prepared, item, scores)
        times = time_methods(
            checkpoint,
            list(prepared),
            [(item.image.numpy(), item.boxes.numpy()) for item in timed],
            stored=Path(folder),
            threads=settings.threads,
            repeats=settings.repeats,
            warmup=settings.warmup,
        )
    cost = measure_cost(found.model, found.size)
    methods = {name: MethodResult(reason=reason) for name, reason in unavailable.items() if reason is not None}
    for name, network in prepared.items():
        result = {
            "available": True,
            "scores": scores[name].summary(),
            "objects": scores[name].rows(),
            **times[name],
            "size_mb": network.saved_bytes / 1e6,
            "quantized": cost.quantized(network.quantized_layers),
        }
        methods[name] = MethodResult.from_json(result)
    return QuantizationReport(
        methods={name: methods[name] for name in settings.methods},
        checkpoint=checkpoint.name,
        checkpoint_sha256=sha256_of(checkpoint),
        settings=settings.to_dict(),
        threads=settings.threads,
        images=len(scored),
        objects=objects,
        boxes_of_timed_images=[len(item.boxes) for item in timed],
        machine={**training_machine(), "threads": settings.threads, "torch": str(torch.__version__)},
    )
