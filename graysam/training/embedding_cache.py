"""What a teacher made of images, kept on disk within a byte budget."""

import os
import uuid
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SUFFIX = ".npy"


class EmbeddingCache:
    """One file an embedding, in a folder for one teacher and one way of preparing images.

    What is stored stays: once the budget is used up, nothing more is. (Draws come in random order, in which throwing
    away what is oldest gains nothing.) Safe for several processes at once, which may go over the budget by what each
    writes meanwhile. A damaged file counts as absent and is written anew.

    Args:
        folder: made where missing.
        budget_bytes: of all files in it together; 0 stores nothing.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        if budget_bytes < 0:
            raise ValueError(f"the cache's budget is {budget_bytes} bytes; required: 0 or more")
        self.folder, self.budget_bytes = folder, budget_bytes
        if budget_bytes:
            folder.mkdir(parents=True, exist_ok=True)
        files = folder.glob(f"*{SUFFIX}") if folder.is_dir() else ()
        self.used_bytes = sum(path.stat().st_size for path in files)

    def read(self, name: str) -> Tensor | None:
        """Return an embedding, None where it is not stored."""
        try:
            return torch.from_numpy(np.load(self._path(name), allow_pickle=False))
        except (OSError, ValueError, EOFError):
            return None

    def write(self, name: str, embedding: Tensor) -> None:
        """Store an embedding while the budget lasts."""
        size = embedding.numel() * embedding.element_size() + 128  # NumPy's header
        if self.used_bytes + size > self.budget_bytes:
            return
        path = self._path(name)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with open(temporary, "wb") as file:
                np.save(file, embedding.numpy(), allow_pickle=False)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self.used_bytes += size

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"
