"""After training: the best checkpoint in every kind of numbers, without retraining."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from graysam.files import sha256_of
from graysam.training.benchmark import Settings, benchmark, is_current
from graysam.training.benchmark_table import LOGGED, rows, scalars, text
from graysam.training.checkpoints import BEST
from graysam.training.dashboards import log_table
from graysam.training.run_directory import write_json

log = logging.getLogger(__name__)


class QuantizeBenchmark(Callback):
    """Compares the best checkpoint's kinds when training ends, and tells the terminal, a file and the loggers.

    The report lies in `<run_dir>/benchmark.json`. It is made once: a run that was killed after it only tells it again.
    Other ranks do nothing.

    Args:
        run_dir: the run's directory, with `checkpoints/best.ckpt`.
        kinds: names of `graysam.runtime.quantize.KINDS`; none: nothing is done.
        threads, repeats, warmup, timing_images, max_images: see `graysam.training.benchmark.Settings`.

    Raises:
        ValueError: an unknown or repeated kind, or a count out of range.
    """

    def __init__(
        self,
        *,
        run_dir: str | Path,
        kinds: Sequence[str],
        threads: int,
        repeats: int,
        warmup: int,
        timing_images: int,
        max_images: int | None,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.settings = Settings(
            kinds=tuple(kinds),
            threads=threads,
            repeats=repeats,
            warmup=warmup,
            timing_images=timing_images,
            max_images=max_images,
        )

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the kinds; the model in training is left alone."""
        checkpoint = self.run_dir / "checkpoints" / BEST
        if not self.settings.kinds or not trainer.is_global_zero:
            return
        if not checkpoint.is_file():
            log.warning("no benchmark: %s does not exist, because no validation has finished", checkpoint)
            return
        report = self._report(trainer, checkpoint)
        print(f"\n{text(report)}", flush=True)
        for logger in trainer.loggers:
            logger.log_metrics(scalars(report), step=trainer.global_step)
        log_table(trainer.loggers, "benchmark", list(LOGGED), rows(report), trainer.global_step)

    def _report(self, trainer: lightning.Trainer, checkpoint: Path) -> dict[str, Any]:
        path = self.run_dir / "benchmark.json"
        try:
            stored = json.loads(path.read_text())
        except (OSError, ValueError):  # there is none, or a damaged one
            stored = {}
        if is_current(stored, self.settings, sha256_of(checkpoint)):
            return stored
        log.info("scoring and timing %s as %s", checkpoint, ", ".join(self.settings.kinds))
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        report = benchmark(checkpoint, data.validation_set(), self.settings)
        write_json(path, report)
        return report
