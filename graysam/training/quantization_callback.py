"""After training: compare quantization methods on the best checkpoint; as a file, a text and a table for loggers."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from tabulate import tabulate

from graysam.data.dataset import FixedSlices
from graysam.metrics.aggregation import MACRO
from graysam.reporting.schemas import QUANTIZATION, TIMES, QuantizationReport, read_json_object
from graysam.system.files import sha256_of, write_json_file
from graysam.training.checkpoints import BEST
from graysam.training.loggers import log_table
from graysam.training.quantization import Settings, compare_methods, is_current
from graysam.training.scores import comparison_table

log = logging.getLogger(__name__)

PRINTED = (
    *("method", "DSC / NSD %", "encoder ms", "decoder ms, 1 box", "image ms", "MB"),
    *("encoder layers", "head layers", "parameters", "MACs"),
)
SPREADS = tuple(f"{measure}{suffix}" for measure in TIMES for suffix in ("", "_min", "_max"))
QUANTIZED = tuple(
    f"quantized_{name}" for name in ("encoder_layers", "head_layers", "parameters_percent", "macs_percent")
)
LOGGED = ("method", "dsc", "nsd", *SPREADS, "size_mb", *QUANTIZED, "why_unavailable")


class QuantizationComparison(Callback):
    """Compares quantization methods on the best checkpoint when training ends: `<run_dir>/quantization.json`.

    It is measured once: a run that was killed afterwards only prints and logs it again. Other ranks do nothing.

    Args:
        run_dir: the run's directory, with `checkpoints/best.ckpt`.
        settings: what is compared, and how; without methods, nothing is done.
    """

    def __init__(self, *, run_dir: str | Path, settings: Settings) -> None:
        self.file = Path(run_dir) / QUANTIZATION
        self.checkpoint = Path(run_dir) / "checkpoints" / BEST
        self.settings = settings

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the methods, print and log the result; the model in training stays as it is."""
        if not self.settings.methods or not trainer.is_global_zero:
            return
        if not self.checkpoint.is_file():
            log.warning("no quantization: %s does not exist, because no validation has finished", self.checkpoint)
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        report = self.report(data.validation_set())
        print(f"\n{text(report)}", flush=True)
        for logger in trainer.loggers:
            logger.log_metrics(scalars(report), step=trainer.global_step)
        log_table(trainer.loggers, "quantization", list(LOGGED), rows(report), trainer.global_step)

    def _stored(self) -> QuantizationReport:
        try:
            return QuantizationReport.from_json(read_json_object(self.file))
        except (OSError, ValueError):  # missing or damaged
            return QuantizationReport({})

    def is_current(self) -> bool:
        """Return whether the stored report is of the best checkpoint and these settings, or there is nothing to do."""
        if not self.settings.methods or not self.checkpoint.is_file():
            return True
        return is_current(self._stored(), self.settings, sha256_of(self.checkpoint))

    def report(self, items: FixedSlices) -> QuantizationReport:
        """Return the stored report where it is current, else measure on held-out slices and store it."""
        if self.is_current():
            return self._stored()
        log.info("scoring and timing %s with %s", self.checkpoint, ", ".join(self.settings.methods))
        report = compare_methods(self.checkpoint, items, self.settings)
        write_json_file(self.file, report.to_json())
        return report


def _percent(parts: Mapping[str, Sequence[int]]) -> float:
    return 100 * sum(hit for hit, _ in parts.values()) / sum(total for _, total in parts.values())


def rows(report: QuantizationReport) -> list[list[Any]]:
    """Return one row per method in the order of LOGGED; DSC and NSD in [0,1], None where it was not available."""
    table: list[list[Any]] = []
    for name, method in report.methods.items():
        if method.reason:
            table.append([name, *[None] * (len(LOGGED) - 2), method.reason])
            continue
        macro, quantized = method.scores[MACRO], method.quantized
        times = [method.times_ms[measure][key] for measure in TIMES for key in ("median", "min", "max")]
        layers = ["{}/{}".format(*quantized["layers"][part]) for part in ("image_encoder", "heads")]
        percents = [_percent(quantized[what]) for what in ("parameters", "macs")]
        table.append([name, macro.dsc, macro.nsd, *times, method.size_mb, *layers, *percents, ""])
    return table


def _available(report: QuantizationReport) -> dict[str, dict[str, Any]]:
    """Return the rows of the methods that ran, by name and column."""
    return {row[0]: dict(zip(LOGGED, row, strict=True)) for row in rows(report) if not row[-1]}


def scalars(report: QuantizationReport) -> dict[str, float]:
    """Return `quantization/<method>/<dsc|nsd|encoder_ms|decoder_ms|image_ms|size_mb>`; DSC and NSD in [0,1]."""
    metrics = ("dsc", "nsd", *TIMES, "size_mb")
    return {f"quantization/{name}/{key}": row[key] for name, row in _available(report).items() for key in metrics}


def text(report: QuantizationReport) -> str:
    """Format a report for a terminal: the methods side by side, then their scores by modality."""
    lines = [
        f"{report.checkpoint} with several quantization methods. DSC and NSD: {report.images} images with "
        f"{report.objects} boxes, slice-wise, mean over modalities. Times: median (min-max), threads={report.threads}, "
        f"{report.machine['cpu']}, torch {report.machine['torch']}. Layers, parameters, MACs: really quantized."
    ]
    available = _available(report)
    if available:
        table = [
            [
                name,
                f"{100 * row['dsc']:.2f} / {100 * row['nsd']:.2f}",
                *[f"{row[key]:.1f} ({row[f'{key}_min']:.1f}-{row[f'{key}_max']:.1f})" for key in TIMES],
                f"{row['size_mb']:.1f}",
                *[row[key].replace("/", " of ") for key in QUANTIZED[:2]],
                *[f"{row[key]:.1f} %" for key in QUANTIZED[2:]],
            ]
            for name, row in available.items()
        ]
        lines.append(tabulate(table, PRINTED, tablefmt="plain", disable_numparse=True, stralign="right"))
        lines += ["", comparison_table({name: report.methods[name].to_json()["scores"] for name in available})]
    lines += [f"{name} is unavailable: {method.reason}" for name, method in report.methods.items() if method.reason]
    return "\n".join(lines)
