"""After training: compare quantization methods on the best checkpoint, and report it as a file, a text and a table."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from tabulate import tabulate

from graysam.benchmarking.method_timing import time_methods
from graysam.data.dataset import FixedSlices, Item
from graysam.data.sampling import choose
from graysam.exporting.methods import METHODS, MethodName, PreparedModel, Target
from graysam.exporting.pipeline import read_calibration_images
from graysam.inference.backend import decode_all
from graysam.metrics.aggregation import MACRO
from graysam.metrics.challenge import binary_metrics
from graysam.models.cost import measure_cost
from graysam.models.registry import open_pretrained
from graysam.reporting.schemas import (
    QUANTIZATION,
    TIMES,
    MethodResult,
    QuantizationReport,
    parse_scores,
    read_json_object,
)
from graysam.system.files import sha256_of, write_json_file
from graysam.system.terminal import check_at_least, one_line, progress
from graysam.training.checkpoints import BEST
from graysam.training.loggers import log_table
from graysam.training.run_directory import training_machine
from graysam.training.scores import ObjectScore, Scores, comparison_table

log = logging.getLogger(__name__)

COLUMNS = (
    *("method", "dsc", "nsd", *(f"{time}{end}" for time in TIMES for end in ("", "_min", "_max")), "size_mb"),
    *("quantized_encoder_layers", "quantized_head_layers", "quantized_parameters_percent", "quantized_macs_percent"),
    "why_unavailable",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared, and how.

    Attributes:
        methods: names of `graysam.exporting.methods.METHODS`; without any, nothing is done.
        threads: of the CPU, for the times.
        repeats: timed rounds.
        warmup: rounds before them.
        timing_images: images of each round.
        max_images: most images that are scored, round-robin over the groups; None for all.
        calibration_images: most training images that a method is calibrated on.

    Raises:
        ValueError: a count out of range.
    """

    methods: list[MethodName]
    threads: int
    repeats: int
    warmup: int
    timing_images: int
    max_images: int | None
    calibration_images: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "methods":
                check_at_least(0 if name == "warmup" else 1, f"quantize.{name}", value)


class QuantizationComparison(Callback):
    """Compares quantization methods on the best checkpoint when training ends: `<run_dir>/quantization.json`.

    It is measured once: a run that was killed afterwards only prints and logs it again. Other ranks do nothing.

    Args:
        run_dir: the run's directory, with `checkpoints/best.ckpt`.
        settings: what is compared, and how.
    """

    def __init__(self, *, run_dir: str | Path, settings: Settings) -> None:
        self.file = Path(run_dir) / QUANTIZATION
        self.checkpoint = Path(run_dir) / "checkpoints" / BEST
        self.settings = settings

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the methods, print and log the result; the model in training stays as it is."""
        if not self.settings.methods or not trainer.is_global_zero or not self.checkpoint.is_file():
            return
        report = self.report(trainer.datamodule.validation_set())  # type: ignore[attr-defined]
        print(f"\n{text(report)}", flush=True)
        table = rows(report)
        names = ("dsc", "nsd", *TIMES, "size_mb")
        values = {f"quantization/{row['method']}/{name}": row[name] for row in table for name in names if name in row}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
        cells = [[row.get(name) for name in COLUMNS] for row in table]
        log_table(trainer.loggers, "quantization", COLUMNS, cells, trainer.global_step)

    def stored(self) -> QuantizationReport | None:
        """Return the stored report; None for another checkpoint or settings, or where a method was not available."""
        try:
            report = QuantizationReport.from_json(read_json_object(self.file))
        except ValueError:  # missing or damaged
            return None
        unavailable = {name: bool(METHODS[name].why_unavailable()) for name in self.settings.methods}
        of_now = sha256_of(self.checkpoint), asdict(self.settings), unavailable
        known = {name: bool(method.reason) for name, method in report.methods.items()}
        return report if (report.checkpoint_sha256, report.settings, known) == of_now else None

    def is_due(self) -> bool:
        """Return whether the settings ask for a comparison that is not stored."""
        return bool(self.settings.methods) and self.checkpoint.is_file() and self.stored() is None

    def report(self, items: FixedSlices) -> QuantizationReport:
        """Return the stored report where it is current, else measure on held-out slices and store it."""
        report = self.stored()
        if report is None:
            log.info("scoring and timing %s with %s", self.checkpoint, ", ".join(self.settings.methods))
            report = compare_methods(self.checkpoint, items, self.settings)
            write_json_file(self.file, report.to_json())
        return report


def score(prepared: Mapping[str, PreparedModel], item: Item, scores: Mapping[str, Scores]) -> None:
    """Add every method's scores of one image, all with the same boxes."""
    image, boxes, masks = item.image.numpy()[None], item.boxes.numpy(), item.masks.numpy()
    for name, network in prepared.items():
        embedding = network.backend.encode(image)[0]
        for prompt, (logits, _) in enumerate(decode_all(network.backend, embedding, boxes)):
            dsc, nsd = binary_metrics(masks[prompt], logits > 0)
            scores[name].append(ObjectScore(item.group, item.modality, dsc, nsd, key=item.key, prompt=prompt))


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
    unavailable = {name: METHODS[name].why_unavailable() for name in settings.methods}
    prepared: dict[str, PreparedModel] = {}
    draw = partial(read_calibration_images, items.reader, settings.calibration_images)
    images = cache(partial(draw, scheme=items.scheme, size=found.size))
    groups = items.reader.groups[items.rows]
    timed = [items[i] for i in choose(groups, settings.timing_images)]
    with tempfile.TemporaryDirectory(prefix="graysam_quantization_") as folder:
        for name in [name for name, reason in unavailable.items() if reason is None]:
            target = Target(Path(folder) / name, items.scheme, images)
            try:
                prepared[name] = METHODS[name].prepare(found.model, target)
            except Exception as error:  # whatever a library cannot do with this model: the others still count
                unavailable[name] = f"failed on this model: {one_line(error)[:200]}"
        scores = {name: Scores() for name in prepared}
        scored = choose(groups, settings.max_images) if prepared else []
        for i in progress(scored, "scoring every method"):
            score(prepared, items[i], scores)
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
    methods: dict[str, MethodResult] = {name: MethodResult(reason=reason or "") for name, reason in unavailable.items()}
    for method, network in prepared.items():
        methods[method] = MethodResult(
            scores=parse_scores(scores[method].summary()),
            objects=scores[method].rows(),
            times_ms=times[method],
            size_mb=network.saved_bytes / 1e6,
            quantized=cost.quantized(network.quantized_layers),
        )
    return QuantizationReport(
        methods=methods,
        checkpoint=checkpoint.name,
        checkpoint_sha256=sha256_of(checkpoint),
        settings=asdict(settings),
        threads=settings.threads,
        images=len(scored),
        objects=max((len(found) for found in scores.values()), default=0),
        boxes_of_timed_images=[len(item.boxes) for item in timed],
        machine={**training_machine(), "threads": settings.threads, "torch": str(torch.__version__)},
    )


def rows(report: QuantizationReport) -> list[dict[str, Any]]:
    """Return one row per method by COLUMNS; DSC and NSD in [0,1]. An unavailable one has only its name and why."""
    table: list[dict[str, Any]] = []
    for name, method in report.methods.items():
        if method.reason:
            table.append({"method": name, "why_unavailable": method.reason})
            continue
        macro, layers = method.scores[MACRO], method.quantized["layers"]
        row = {"method": name, "dsc": macro.dsc, "nsd": macro.nsd, "size_mb": method.size_mb}
        for time in TIMES:
            spread = method.times_ms[time]
            row |= {time: spread["median"], f"{time}_min": spread["min"], f"{time}_max": spread["max"]}
        for column, part in (("encoder", "image_encoder"), ("head", "heads")):
            row[f"quantized_{column}_layers"] = "{}/{}".format(*layers[part])
        for what in ("parameters", "macs"):
            hits, totals = zip(*method.quantized[what].values(), strict=True)
            row[f"quantized_{what}_percent"] = 100 * sum(hits) / sum(totals)
        table.append(row)
    return table


def text(report: QuantizationReport) -> str:
    """Format a report for a terminal: the methods side by side, then their scores by modality."""
    lines = [
        f"{report.checkpoint} with several quantization methods. DSC and NSD: {report.images} images with "
        f"{report.objects} boxes, slice-wise, mean over modalities. Times: medians, threads={report.threads}, "
        f"{report.machine['cpu']}, torch {report.machine['torch']}. Layers, parameters, MACs: really quantized."
    ]
    available = [row for row in rows(report) if "dsc" in row]
    if available:
        table = []
        for column in COLUMNS[:-1]:
            values = [row[column] for row in available]
            table.append([column, *(f"{value:.4g}" if isinstance(value, float) else value for value in values)])
        lines.append(tabulate(table, "firstrow", tablefmt="plain", disable_numparse=True, stralign="right"))
        scores = {row["method"]: report.methods[row["method"]].to_json()["scores"] for row in available}
        lines += ["", comparison_table(scores)]
    lines += [f"{name} is unavailable: {method.reason}" for name, method in report.methods.items() if method.reason]
    return "\n".join(lines)
