"""A model of the real architecture, small enough to train in a test, and the overrides that choose it."""

from pathlib import Path
from typing import Any

from graysam.models.registry import EncoderNumbers, model_config

ENCODER = EncoderNumbers(widths=[8, 16, 32, 32, 64], depths=[1, 1, 1, 1, 1], neck_depth=1, embedding_dim=32)
HEADS = {"dim": 32, "mlp_dim": 64, "num_heads": 2, "head_hidden": 32}
OVERRIDES = [
    *(f"+model.encoder.{key}={value}" for key, value in ENCODER.items()),
    *(f"+model.heads.{key}={value}" for key, value in HEADS.items()),
    "channels=replicate",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=1",
    "data=challenge",
    "data.samples_per_group=4",
    "data.batch_size=4",
    "data.num_workers=0",
    "optimizer.lr=1e-3",
    "quantize=none",
    "callbacks.validation_report.pictures_every_n_epochs=100",
]


def overrides(shards: Path, run_dir: Path, *more: str) -> list[str]:
    """Return the overrides of a tiny run on given shards into a given directory."""
    return [*OVERRIDES, f"data.shards_dir={shards}", f"run_dir={run_dir}", *more]


def tiny_numbers() -> dict[str, Any]:
    """Return the numbers of that model, as `build_sam` takes them."""
    return model_config("efficientvit_sam_l0", encoder=ENCODER, heads=HEADS)
