"""Checkpoints that are whole or not there, the best one, and the points that a killed run goes on from."""

import io
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from graysam.system.files import replacing
from graysam.training.interrupts import StopSignals

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
# Where Lightning keeps the progress of a validation that runs within training.
VALIDATION_PROGRESS = "epoch_loop.val_loop.batch_progress"


class CheckpointNotWritten(OSError):
    """A checkpoint could not be stored; the ones before it are as they were."""


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file, or None when every byte is as it was written.

    torch writes a ZIP archive with a CRC-32 of each member, which this reads and compares.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return None if member is None else f"the checksum of {member} is wrong"


class WholeFileIO(CheckpointIO):
    """Writes a checkpoint under a temporary name, flushes it to the disk and renames it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint whole or not at all; raises CheckpointNotWritten, e.g. on a full disk."""
        path = Path(path)
        buffer = io.BytesIO()  # torch's own writer hides the system's error behind its own
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, open(temporary, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointNotWritten(
                f"{path} ({len(buffer.getbuffer()) / 1e6:.0f} MB) could not be written: {error.strerror or error}; "
                "the checkpoints before it are kept: make room and give the same command again"
            ) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain containers; nothing else is ever unpickled."""
        return torch.load(path, map_location=map_location, weights_only=True)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete a checkpoint; one that is not there is no error."""
        Path(path).unlink(missing_ok=True)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's best checkpoint, whose score stays known when the run directory was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, now = str(state_dict.get("dirpath")), str(self.dirpath)
        if before != now:
            moved: dict[str, Any] = {"dirpath": now}
            for key, value in state_dict.items():
                if isinstance(value, str) and value.startswith(before):
                    moved[key] = now + value[len(before) :]
            best = {now + path[len(before) :]: score for path, score in state_dict.get("best_k_models", {}).items()}
            state_dict = {**state_dict, **moved, "best_k_models": best}
        super().load_state_dict(state_dict)


class ResumePoints(Checkpoint):
    """Stores `last.ckpt` so that a run which is stopped at any moment goes on with the same losses.

    A point is stored at the end of every epoch; within an epoch when the last one is old enough; and at once, before
    the run stops, on SIGTERM or Ctrl-C. The one before is kept as `previous.ckpt`.

    Lightning can go on exactly from the end of a training step that no validation follows, and from the end of an
    epoch. A point within validation is made one before it: the state says that training up to there is done and that
    validation has not begun.

    Args:
        dirpath: folder of the checkpoints.
        every_minutes: how old the last point may grow within an epoch; None for no limit.
        every_steps: how many optimizer steps may lie between two points; None for no limit.

    Raises:
        ValueError: a limit that is not above 0.
    """

    def __init__(self, *, dirpath: str | Path, every_minutes: float | None, every_steps: int | None) -> None:
        for name, value in (("every_minutes", every_minutes), ("every_steps", every_steps)):
            if value is not None and value <= 0:
                raise ValueError(f"callbacks.resume.{name} is {value}; required: above 0, or null for no limit")
        self.directory = Path(dirpath)
        self.every_minutes, self.every_steps = every_minutes, every_steps
        self.signals = StopSignals()
        self._within_validation = False
        self._stop_after: int | None = None
        self._begin_again(0)

    def _begin_again(self, step: int) -> None:
        self._saved_at, self._saved_step = time.monotonic(), step

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Watch the signals; Lightning has set its own handlers before."""
        self._begin_again(trainer.global_step)
        self.signals.install()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Store a point when one is due and Lightning can go on from here."""
        done = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
        every = trainer.val_check_batch  # infinite where the loader has no length, None with a time interval
        validation_follows = trainer.is_last_batch or (every is not None and (done + 1) % every == 0)
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if validation_follows or not stepped:
            return
        # one exchange between the ranks, whatever the reason
        if trainer.strategy.reduce_boolean_decision(self._due(trainer) or self.signals.received is not None, all=False):
            self._save(trainer)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Store a point when one is due: training up to here is done, and validation may take long."""
        if _validates_within_training(trainer) and trainer.strategy.reduce_boolean_decision(
            self._due(trainer), all=False
        ):
            self._save(trainer, within_validation=True)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop within validation when asked to."""
        # Ranks may have different numbers of batches, so several of them finish their validation first.
        alone = _validates_within_training(trainer) and trainer.world_size == 1
        if alone and self.signals.received is not None:
            self._save(trainer, within_validation=True)
            self._stop_when_asked(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Store the epoch; with `max_steps` Lightning would count it twice, so the next step's end must do."""
        if trainer.max_steps == -1 or trainer.global_step >= trainer.max_steps:
            self._save(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop when asked to: the epoch before is stored, and logged too."""
        self._stop_when_asked(trainer)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop when asked to: the step before is stored, and logged too."""
        self._stop_when_asked(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Give the signals back; what comes after training is computed anew by a run that goes on."""
        self._stop_when_asked(trainer)
        self.signals.restore()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self.signals.restore()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make a point within validation one before it."""
        if self._within_validation:
            progress = checkpoint["loops"]["fit_loop"][VALIDATION_PROGRESS]
            nothing = dict.fromkeys(progress["current"], 0)
            # what Lightning takes for a validation whose first batch was never finished
            begun = {**nothing, "ready": 1, "started": 1}
            progress.update(current=nothing, total=begun, is_last_batch=False)

    # ------------------------------------------------------------------ saving
    def _due(self, trainer: lightning.Trainer) -> bool:
        minutes, steps = (time.monotonic() - self._saved_at) / 60, trainer.global_step - self._saved_step
        old = self.every_minutes is not None and minutes >= self.every_minutes
        return old or (self.every_steps is not None and steps >= self.every_steps)

    def _stop_when_asked(self, trainer: lightning.Trainer) -> None:
        """Stop where a point was stored on all ranks because one of them received a signal."""
        if self._stop_after == trainer.global_step:
            self.signals.stop(f"step {trainer.global_step} is stored in {self.directory / LAST}")

    def _save(self, trainer: lightning.Trainer, within_validation: bool = False) -> None:
        incoming = self.directory / f"incoming-{LAST}"
        self._within_validation = within_validation
        try:
            trainer.save_checkpoint(incoming, False)  # not the weights alone
        finally:
            self._within_validation = False
        if trainer.is_global_zero:
            last = self.directory / LAST
            if last.exists():
                last.replace(self.directory / PREVIOUS)
            incoming.replace(last)
        self._begin_again(trainer.global_step)
        if trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False):
            self._stop_after = trainer.global_step


def _validates_within_training(trainer: lightning.Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
