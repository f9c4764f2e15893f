"""Embeddings on disk, known by the content of the image they belong to, with 16 or 8 bits a number."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graysam.imaging.canvas import content_hash
from graysam.system.files import replacing

LEVELS = 255
RANGE_BYTES = 4  # a row's smallest value and its step, float16 each


class EmbeddingCache:
    """One file per embedding, named after the content of the image, so that runs on any shards share it.

    Nothing is evicted: once its size is used up, nothing more is stored. Several processes may share it; they may
    exceed the size by what each writes meanwhile. A damaged file counts as absent and is written anew.

    Args:
        folder: parent of the caches, one subfolder for each identity and number of bits.
        identity: of all that decides an image's embedding.
        gigabytes: maximum size of the subfolder; 0 stores nothing.
        bits: 16 stores float16 numbers; 8 stores levels between the smallest and the largest number of each row of a
            map, half as many bytes (`to_levels`).
    """

    def __init__(self, folder: Path, *, identity: str, gigabytes: float, bits: Literal[8, 16]) -> None:
        self.bits = bits
        name = identity if bits == 16 else f"{identity} {bits} bits"
        self.folder = folder / hashlib.sha256(name.encode()).hexdigest()[:16]
        self.free_bytes = int(gigabytes * 1e9) - sum(path.stat().st_size for path in self.folder.glob("*.npy"))

    def load(self, image: Tensor) -> Tensor | None:
        """Return the embedding (C,H,W), float16, of an image; None where it is not stored."""
        with suppress(OSError, ValueError, EOFError):  # absent or damaged
            stored = np.load(self._file(image), allow_pickle=False)
            return torch.from_numpy(stored if self.bits == 16 else from_levels(stored))
        return None

    def store(self, image: Tensor, embedding: Tensor) -> Tensor:
        """Store an embedding (C,H,W), float16, of an image, where there is room; return what `load` gives for it."""
        values = embedding.numpy()
        stored = values if self.bits == 16 else to_levels(values)
        if stored.nbytes <= self.free_bytes:
            file = self._file(image)
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary, open(temporary, "wb") as opened:
                np.save(opened, stored, allow_pickle=False)
            self.free_bytes -= stored.nbytes
        # Also where there was no room: a resumed run, which finds the embedding stored, computes the same.
        return embedding if self.bits == 16 else torch.from_numpy(from_levels(stored))

    def _file(self, image: Tensor) -> Path:
        return self.folder / f"{content_hash(image.cpu().numpy())}.npy"


def to_levels(values: NDArray[np.float16]) -> NDArray[np.uint8]:
    """Round numbers (...,W) to 256 levels between the smallest and the largest of their row.

    Returns:
        (..., W + RANGE_BYTES): the levels, then smallest number and step of the row as bytes of two float16.
    """
    low = values.min(axis=-1, keepdims=True)
    high = values.max(axis=-1, keepdims=True).astype(np.float32)
    step = ((high - low) / LEVELS).astype(np.float16)
    # Steps below float16's smallest number: the row is constant.
    exact = (values.astype(np.float32) - low) / np.where(step > 0, step, 1).astype(np.float32)
    levels = np.clip(np.rint(exact), 0, LEVELS).astype(np.uint8)
    return np.concatenate([levels, np.concatenate([low, step], axis=-1).view(np.uint8)], axis=-1)


def from_levels(stored: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return the numbers of `to_levels`, float16 (...,W); ValueError for another array."""
    if stored.dtype != np.uint8:
        raise ValueError(f"{stored.dtype} numbers are stored; required: 8-bit levels")
    ranges = np.ascontiguousarray(stored[..., -RANGE_BYTES:]).view(np.float16).astype(np.float32)
    return (ranges[..., :1] + stored[..., :-RANGE_BYTES] * ranges[..., 1:]).astype(np.float16)
