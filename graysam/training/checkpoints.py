"""Checkpoint files: the best one, and those from which a killed or stopped run resumes with the same losses.

Each is written whole or not at all.
"""

import io
import os
import signal
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from graysam.system.environment import where_supported
from graysam.system.files import replacing

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
STOPPED_KEY = "graysam_stopped"


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


class WholeFileIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, flushes it to the disk and renames it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], *_: Any, **__: Any) -> None:
        """Write a checkpoint whole or not at all; raises OSError, e.g. on a full disk."""
        path = Path(path)
        buffer = io.BytesIO()  # torch's own writer hides the system's error behind its own
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, open(temporary, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                with where_supported():
                    os.fsync(file.fileno())
        except OSError as error:
            size = f"{len(buffer.getbuffer()) / 1e6:.0f} MB"
            raise OSError(f"{path} ({size}) could not be written: {error.strerror or error}; make room") from error


class BestCheckpoint(ModelCheckpoint):
    """Lightning's best checkpoint, whose score stays known when the run directory was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, now = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            return now + value[len(before) :] if isinstance(value, str) and value.startswith(before) else value

        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**{key: moved(value) for key, value in state_dict.items()}, "best_k_models": best})


class Interrupted(Exception):
    """The run received a signal, has stored its state, and stops.

    `exit_code` is 128 + the signal's number, as in shells: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class ResumePoints(Checkpoint):
    """Stores `last.ckpt` so that a run that is stopped at any moment resumes with the same losses.

    A point is stored at the end of every epoch; within an epoch when the last one is old enough; and at once, before
    the run stops, on SIGTERM or Ctrl-C. The one before is kept as `previous.ckpt`.

    Lightning can resume exactly from the end of a training step that no validation follows, and from the end of an
    epoch. A point within validation is stored as one before it: training up to there is done and validation has not
    begun. Where a callback has stopped the run, nothing more is trained from its point.

    Args:
        dirpath: folder of the checkpoints.
        every_minutes: maximum age of the last point within an epoch; None for no limit.
        every_steps: maximum number of optimizer steps between two points; None for no limit.

    Raises:
        ValueError: a limit that is not above 0.
    """

    def __init__(self, *, dirpath: str | Path, every_minutes: float | None, every_steps: int | None) -> None:
        for name, value in (("every_minutes", every_minutes), ("every_steps", every_steps)):
            if value is not None and value <= 0:
                raise ValueError(f"callbacks.resume.{name} is {value}; required: above 0, or null for no limit")
        self.directory = Path(dirpath)
        self.every_minutes, self.every_steps = every_minutes, every_steps
        self._signal: int | None = None  # the first one received
        self._handlers: dict[int, Any] = {}  # those of before
        self._within_validation = False
        self._stop_after: int | None = None
        self._saved_at, self._saved_step = time.monotonic(), 0

    # ------------------------------------------------------------------ moments to store
    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Handle the signals; Lightning has set its own handlers before."""
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        self._handlers = {number: signal.signal(number, self._record) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store a point when one is due and Lightning can resume from here."""
        done = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
        every = trainer.val_check_batch  # infinite where the loader has no length, None with a time interval
        validation_follows = trainer.is_last_batch or (every is not None and (done + 1) % every == 0)
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if trainer.should_stop:  # the epoch ends here, and is stored then
            return
        # one exchange between the ranks, whatever the reason
        if not validation_follows and stepped and _any_rank(trainer, self._due(trainer) or self._signal is not None):
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """Store a point when one is due: training up to here is done, and validation may take long."""
        if _validates_within_training(trainer) and _any_rank(trainer, self._due(trainer)):
            self._save(trainer, within_validation=True)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Store a point and stop within validation after a signal."""
        # Ranks may have different numbers of batches, so several of them finish their validation first.
        if _validates_within_training(trainer) and trainer.world_size == 1 and self._signal is not None:
            self._save(trainer, within_validation=True)
            self._stop_if_signalled(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Store the epoch; with `max_steps` Lightning would count it twice, so the next step's end must do."""
        if trainer.max_steps == -1 or trainer.global_step >= trainer.max_steps or trainer.should_stop:
            self._save(trainer)

    # ------------------------------------------------------------------ moments to stop: what is before them is stored
    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self._stop_if_signalled(trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._stop_if_signalled(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop after a signal, or restore the handlers; a resumed run computes anew what comes after training."""
        self._stop_if_signalled(trainer)
        self.on_exception()

    def on_exception(self, *_: Any) -> None:
        """Restore the signals' handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _record(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; a second one ends the process at once."""
        self._signal = number
        name = signal.Signals(number).name
        # Not print: the handler may have interrupted one.
        with suppress(OSError):  # nobody reads it
            os.write(2, f"\n{name}: storing the run's state, then stopping; a second signal stops at once\n".encode())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _stop_if_signalled(self, trainer: Trainer) -> None:
        """Stop where a point was stored on all ranks because one of them received a signal."""
        if self._stop_after == trainer.global_step:
            number = self._signal or signal.SIGTERM  # another rank may have received it
            raise Interrupted(
                f"stopped by {signal.Signals(number).name}: step {trainer.global_step} is stored in "
                f"{self.directory / LAST}; the same command resumes the run",
                number,
            )

    # ------------------------------------------------------------------ saving
    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store whether a callback has stopped the run, and turn a point within validation into one before it."""
        checkpoint[STOPPED_KEY] = trainer.should_stop and not self._within_validation
        if self._within_validation:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            nothing = dict.fromkeys(progress["current"], 0)
            # Lightning's state of a validation whose first batch was never finished
            progress.update(current=nothing, total={**nothing, "ready": 1, "started": 1}, is_last_batch=False)

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Stop again where a callback has stopped the run."""
        trainer.should_stop = checkpoint.get(STOPPED_KEY, False)

    def _due(self, trainer: Trainer) -> bool:
        minutes, steps = (time.monotonic() - self._saved_at) / 60, trainer.global_step - self._saved_step
        old = self.every_minutes is not None and minutes >= self.every_minutes
        return old or (self.every_steps is not None and steps >= self.every_steps)

    def _save(self, trainer: Trainer, within_validation: bool = False) -> None:
        last, incoming = self.directory / LAST, self.directory / f"incoming-{LAST}"
        self._within_validation = within_validation
        trainer.save_checkpoint(incoming, False)  # not the weights alone
        self._within_validation = False
        if trainer.is_global_zero:
            if last.exists():
                last.replace(self.directory / PREVIOUS)
            incoming.replace(last)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if _any_rank(trainer, self._signal is not None):
            self._stop_after = trainer.global_step


def _any_rank(trainer: Trainer, decision: bool) -> bool:
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def _validates_within_training(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
