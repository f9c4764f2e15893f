"""The goldens' deterministic fill of a state dictionary by official key names (goldens/README.md, section 1)."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from graysam.models.weights import WeightFile, WeightSource, rename

SEED = "graysam-shared-v1:"
SCALE_ONE = ("point_embeddings", "not_a_point_embed", "no_mask_embed", "iou_token", "mask_tokens")


def uniform(key: str, count: int) -> np.ndarray:
    """Return `count` values in [0,1) for a key: splitmix64 over a counter that the key's CRC-32 starts."""
    start = (zlib.crc32((SEED + key).encode()) * 0x9E3779B97F4A7C15) % 2**64
    z = np.arange(count, dtype=np.uint64) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def fill(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the filled tensor of one official key."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    count = int(np.prod(shape))
    s = 2 * uniform(key, count) - 1
    if key.endswith("running_var"):
        s = 1 + 0.5 * s
    elif key.endswith("running_mean"):
        s = 0.1 * s
    elif key.endswith("attention_biases"):
        s = 0.5 * s
    elif key.endswith("gaussian_matrix"):
        s = np.sqrt(3) * s
    elif any(name in key for name in SCALE_ONE):
        pass
    elif len(shape) == 1:
        s = 1 + 0.2 * s if key.endswith(".weight") else 0.1 * s
    else:
        s = np.sqrt(6 * shape[0] / count) * s
    return torch.from_numpy(s.astype(np.float32).reshape(shape))


def official_state(goldens: Path, model: str) -> dict[str, torch.Tensor]:
    """Return the filled official-style state dictionary of `efficientvit_sam_l0` or `lite_medsam`."""
    keys = json.loads((goldens / "keys_and_shapes.json").read_text())[model]["keys"]
    return {key: fill(key, tuple(value["shape"])) for key, value in keys.items()}


def as_weight_file(state: dict[str, torch.Tensor], layout: str) -> WeightFile:
    """Wrap an official-style state dictionary as if it had been read from a file."""
    source = WeightSource(path="fill", sha256="0" * 64, known_as=None, layout=layout)
    return WeightFile({rename(key, layout): value for key, value in state.items()}, source)
