"""Case files for packing tests, and packing with the defaults of conf/pack.yaml."""

from pathlib import Path
from typing import Any

import numpy as np

from graysam.data import packing
from graysam.data.sources import ChallengeSource
from graysam.data.split import Split
from tests.support.config import compose_plain

SQUARE = np.zeros((256, 200), np.uint8)
SQUARE[10:20, 30:60] = 1
SQUARE[100:102, 7:9] = 5

DEFAULTS = compose_plain("pack")


def save(path: Path, **arrays: Any) -> Path:
    """Write a case file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def picture(seed: int, *shape: int) -> np.ndarray:
    """Return uint8 noise."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pack(raw: Path, output_dir: Path, *, workers: int = 1, overwrite: bool = False, **options: Any) -> dict[str, Any]:
    """Pack challenge files and return the manifest; options replace those of conf/pack.yaml."""
    given = {**DEFAULTS, **options}
    names = ("size", "spacing_order", "patient_pattern", "exclude_datasets", "group_by")
    source = ChallengeSource(folder=raw, **{key: given[key] for key in names})
    split = Split(**{key: given[key] for key in ("val_fraction", "split_by", "seed")})
    shared: dict[str, Any] = {"samples_per_shard": given["samples_per_shard"], "workers": workers}
    return packing.pack(source, output_dir, split=split, overwrite=overwrite, **shared)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
