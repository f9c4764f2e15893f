"""Progress of a run: a bar on a terminal, plain lines elsewhere; and none of Lightning's advertisements."""

import logging
import sys
import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ProgressBar, TQDMProgressBar


class PlainProgress(ProgressBar):
    """Prints one line every `seconds` and one an epoch, for logs that are read as text."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.last = 0.0
        self.started = time.monotonic()
        self.enabled = True

    def disable(self) -> None:
        """Print nothing; Lightning calls it on ranks above 0."""
        self.enabled = False

    def _line(self, trainer: lightning.Trainer, where: str) -> None:
        if not self.enabled:
            return
        self.last = time.monotonic()
        metrics = "  ".join(f"{key} {float(value):.4f}" for key, value in sorted(trainer.progress_bar_metrics.items()))
        print(
            f"[{self.last - self.started:7.0f} s] epoch {trainer.current_epoch} {where}  {metrics}",
            flush=True,
        )

    def _line_when_due(self, trainer: lightning.Trainer, where: str) -> None:
        if time.monotonic() - self.last >= self.seconds:
            self._line(trainer, where)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Print a line when the last one is old enough."""
        self._line_when_due(trainer, f"train {batch_idx + 1}/{self.total_train_batches}")

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Print a line when the last one is old enough."""
        # Lightning's total_val_batches is 0 where the epoch is none to validate after, as before training.
        total = sum(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)
        self._line_when_due(trainer, f"validating {batch_idx + 1}/{total}")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Print the metrics of the validation that ends."""
        self._line(trainer, "validated")


def progress_bar(*, plain_seconds: float) -> Callback:
    """Return a tqdm bar when the standard error is a terminal, else plain lines every `plain_seconds`."""
    return TQDMProgressBar() if sys.stderr.isatty() else PlainProgress(plain_seconds)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "litlogger" not in text and "litmodels" not in text


def hide_advertisements() -> None:
    """Keep Lightning's hints at further products out of its log; adding the same filter twice changes nothing."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
