"""Checkpoint files that are written whole or not at all, and the best checkpoint."""

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from graysam.system.files import replacing

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


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
                os.fsync(file.fileno())
        except OSError as error:
            megabytes = len(buffer.getbuffer()) / 1e6
            problem = f"{path} ({megabytes:.0f} MB) could not be written: {error.strerror or error}; make room"
            raise OSError(problem) from error


class BestCheckpoint(ModelCheckpoint):
    """Lightning's best checkpoint, whose score stays known when the run directory was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        before, now = str(state_dict.get("dirpath")), str(self.dirpath)

        def moved(value: Any) -> Any:
            return now + value[len(before) :] if isinstance(value, str) and value.startswith(before) else value

        best = {moved(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        state_dict = {**{key: moved(value) for key, value in state_dict.items()}, "best_k_models": best}
        super().load_state_dict(state_dict)
