"""One checkpoint in several kinds of numbers: accuracy, speed, size, and what was really quantized."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graysam.benchmarking.method_timing import time_methods
from graysam.data.dataset import FixedSlices, Item
from graysam.data.sampling import choose
from graysam.exporting.accounting import account_for
from graysam.exporting.method import Prepared, Workplace
from graysam.exporting.methods import KINDS, check_methods, restore
from graysam.inference.volume import decode_all
from graysam.models.sam import Sam
from graysam.system.files import sha256_of
from graysam.system.terminal import one_line, progress
from graysam.training.run_directory import machine
from graysam.training.scores import Scores

FORMAT = 1  # of benchmark.json
MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared, and how.

    kinds: names of `graysam.exporting.methods.KINDS`; threads: of the CPU, for the times; repeats: timed rounds;
    warmup: rounds before them; timing_images: images they go over; max_images: most images that are scored, groups in
    turn, None for all; calibration_images: most training images that a kind may be calibrated on.

    Raises:
        ValueError: an unknown or repeated kind, or a count out of range.
    """

    kinds: tuple[str, ...]
    threads: int
    repeats: int
    warmup: int
    timing_images: int
    max_images: int | None
    calibration_images: int

    def __post_init__(self) -> None:
        check_methods(self.kinds)
        least = dict.fromkeys(("threads", "repeats", "timing_images", "max_images", "calibration_images"), 1)
        for name, smallest in {**least, "warmup": 0}.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"quantize.{name} is {value}; required: at least {smallest}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, as JSON gives them back."""
        return {**asdict(self), "kinds": list(self.kinds)}


def score(prepared: Mapping[str, Prepared], item: Item, scores: Mapping[str, Scores]) -> None:
    """Add every kind's scores of one image with the same boxes."""
    image, boxes, masks = item.image.numpy()[None], item.boxes.numpy(), item.masks.numpy()
    for kind, network in prepared.items():
        embedding = network.backend.encode(image)[0]
        for prompt, (logits, _) in enumerate(decode_all(network.backend, embedding, boxes)):
            scores[kind].add(item.group, item.modality, masks[prompt], logits > 0, key=item.key, prompt=prompt)


def reasons(kinds: Sequence[str]) -> dict[str, str | None]:
    """Return why each kind cannot run here, None where it can."""
    return {name: KINDS[name].why_unavailable() for name in kinds}


def is_current(report: Mapping[str, Any], settings: Settings, checkpoint_sha256: str) -> bool:
    """Say whether a stored report is of these weights and settings, and nothing has become available since."""
    stored = {name: kind["available"] for name, kind in report.get("kinds", {}).items()}
    return (
        report.get("format") == FORMAT
        and report.get("checkpoint_sha256") == checkpoint_sha256
        and report.get("settings") == settings.to_dict()
        and stored == {name: reason is None for name, reason in reasons(settings.kinds).items()}
    )


def _calibration_images(items: FixedSlices, count: int) -> list[NDArray[np.float32]]:
    """Return prepared training images of the shards that held-out slices come from, groups in turn."""
    index = items.reader.index
    rows = index.rows(split="train")
    rows = rows[choose(index.groups[rows], count)]
    slices = FixedSlices(items.reader, rows, scheme=items.scheme, size=items.size, max_boxes_per_image=1)
    return [slices[i].image.numpy() for i in progress(range(len(slices)), "reading training slices")]


def benchmark(checkpoint: Path, items: FixedSlices, settings: Settings) -> dict[str, Any]:
    """Compare the kinds on one checkpoint's weights, without retraining.

    Args:
        checkpoint: one of graysam, which describes its model.
        items: held-out slices with their boxes.
        settings: kinds and counts.

    Returns:
        Plain containers, as benchmark.json holds them: `kinds` has for each `available`, and either `reason` or
        `scores`, `objects` (a row an object, for comparisons in pairs), `encoder_ms`, `decoder_ms`, `image_ms`,
        `size_mb` and `quantized`.

    Raises:
        ValueError: the checkpoint cannot be used. ChildProcessError: the timing process died.
    """
    found = restore(checkpoint)
    with tempfile.TemporaryDirectory(prefix="graysam_kinds_") as folder:
        return _benchmark(checkpoint, found.model, found.size, items, settings, Path(folder))


def _benchmark(
    checkpoint: Path, model: Sam, size: int, items: FixedSlices, settings: Settings, folder: Path
) -> dict[str, Any]:
    unavailable = reasons(settings.kinds)
    calibration_images = cache(partial(_calibration_images, items, settings.calibration_images))
    prepared = {}
    for name in [name for name, reason in unavailable.items() if reason is None]:
        place = Workplace(folder / name, size, items.scheme, calibration_images)
        try:
            prepared[name] = KINDS[name].prepare(model, place)
        except Exception as error:  # whatever it is that a library cannot do with this model: the others still count
            unavailable[name] = f"failed on this model: {one_line(error)[:200]}"
    account = account_for(model, size)
    groups = items.reader.index.groups[items.rows]
    chosen = choose(groups, settings.max_images) if prepared else []
    scores = {name: Scores() for name in prepared}
    objects = 0
    for i in progress(chosen, "scoring every kind"):
        item = items[i]
        objects += len(item.boxes)
        score(prepared, item, scores)
    timed = [items[i] for i in choose(groups, settings.timing_images)]
    times = time_methods(
        checkpoint,
        list(prepared),
        [(item.image.numpy(), item.boxes.numpy()) for item in timed],
        stored=folder,
        threads=settings.threads,
        repeats=settings.repeats,
        warmup=settings.warmup,
    )
    kinds: dict[str, dict[str, Any]] = {name: {"available": False, "reason": why} for name, why in unavailable.items()}
    for name, network in prepared.items():
        kinds[name] = {
            "available": True,
            "scores": scores[name].summary(),
            "objects": scores[name].rows(),
            **times.by_method[name],
            "size_mb": network.saved_bytes / MEGABYTE,
            "quantized": account.of(network.quantized_layers),
        }
    return {
        "format": FORMAT,
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": sha256_of(checkpoint),
        "settings": settings.to_dict(),
        "threads": times.threads,
        "images": len(chosen),
        "objects": objects,
        "boxes_of_timed_images": [len(item.boxes) for item in timed],
        "machine": {**machine(), "threads": times.threads, "torch": str(torch.__version__)},
        "kinds": kinds,
    }
