"""A model of the real architecture, small enough to train in a test, and the overrides that choose it."""

from pathlib import Path

OVERRIDES = [
    "model.name=tiny",
    "model.encoder.widths=[8,16,32,32,64]",
    "model.encoder.depths=[1,1,1,1,1]",
    "model.encoder.neck_depth=1",
    "model.encoder.embedding_dim=32",
    "model.heads.dim=32",
    "model.heads.mlp_dim=64",
    "model.heads.num_heads=2",
    "model.heads.head_hidden=32",
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
