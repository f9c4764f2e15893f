"""After training: the best checkpoint in every kind of numbers, without retraining."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from graysam.data.dataset import FixedSlices
from graysam.system.files import sha256_of, write_json_file
from graysam.training.checkpoints import BEST
from graysam.training.loggers import log_table
from graysam.training.quantization import Settings, benchmark, is_current
from graysam.training.quantization_table import LOGGED, rows, scalars, text

log = logging.getLogger(__name__)


class QuantizeBenchmark(Callback):
    """Compares the best checkpoint's kinds when training ends, and tells the terminal, a file and the loggers.

    The report lies in `<run_dir>/benchmark.json`. It is made once: a run that was killed after it only tells it again.
    Other ranks do nothing.

    Args:
        run_dir: the run's directory, with `checkpoints/best.ckpt`.
        kinds: names of `graysam.exporting.methods.KINDS`; none: nothing is done.
        threads, repeats, warmup, timing_images, max_images, calibration_images: see
            `graysam.training.quantization.Settings`.

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
        calibration_images: int,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.settings = Settings(
            kinds=tuple(kinds),
            threads=threads,
            repeats=repeats,
            warmup=warmup,
            timing_images=timing_images,
            max_images=max_images,
            calibration_images=calibration_images,
        )

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the kinds; the model in training is left alone."""
        checkpoint = self._checkpoint
        if not self.settings.kinds or not trainer.is_global_zero:
            return
        if not checkpoint.is_file():
            log.warning("no benchmark: %s does not exist, because no validation has finished", checkpoint)
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        report = self.report(data.validation_set())
        print(f"\n{text(report)}", flush=True)
        for logger in trainer.loggers:
            logger.log_metrics(scalars(report), step=trainer.global_step)
        log_table(trainer.loggers, "benchmark", list(LOGGED), rows(report), trainer.global_step)

    @property
    def _file(self) -> Path:
        return self.run_dir / "benchmark.json"

    @property
    def _checkpoint(self) -> Path:
        return self.run_dir / "checkpoints" / BEST

    def _stored(self) -> dict[str, Any]:
        try:
            return json.loads(self._file.read_text())
        except (OSError, ValueError):  # there is none, or a damaged one
            return {}

    def is_current(self) -> bool:
        """Say whether the stored report is of the best checkpoint and these settings; so it is where no kind is."""
        if not self.settings.kinds or not self._checkpoint.is_file():
            return True
        return is_current(self._stored(), self.settings, sha256_of(self._checkpoint))

    def report(self, items: FixedSlices) -> dict[str, Any]:
        """Return the stored report where it is current, else measure on held-out slices and store it."""
        if self.is_current():
            return self._stored()
        log.info("scoring and timing %s as %s", self._checkpoint, ", ".join(self.settings.kinds))
        report = benchmark(self._checkpoint, items, self.settings)
        write_json_file(self._file, report)
        return report
