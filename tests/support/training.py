"""Runs, the parts of a run as the command `train` builds them, and what runs logged as CSV."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from graysam.config.targets import build
from graysam.data.dataset import Batch
from graysam.training import setup
from graysam.training.distillation import Distillation
from graysam.training.module import SamModule
from graysam.training.run import run_training

run = partial(run_training, build=build)
build_data = partial(setup.build_data, build=build)
build_module = partial(setup.build_module, build=build)
build_trainer = partial(setup.build_trainer, build=build)


def build_distillation(config: dict[str, Any]) -> Distillation:
    return build(config["distillation"])


def changed_by_a_step(module: SamModule, batch: Batch) -> set[str]:
    """Take a training step and return what changed in the model's state."""
    before = {key: value.clone() for key, value in module.model.state_dict().items()}
    optimizer = module.configure_optimizers()["optimizer"]
    module.train()
    module.training_step(batch, 0).backward()
    optimizer.step()
    return {key for key, value in module.model.state_dict().items() if not torch.equal(value, before[key])}


def logged_in(version: Path) -> dict[str, dict[int, float]]:
    """Return all values that one process logged, by column and step."""
    table = pd.read_csv(version / "metrics.csv", index_col="step")
    return {name: values.dropna().to_dict() for name, values in table.items()}


def logged(run_dir: Path, columns: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return the values of columns by step; where a step was repeated, the later process's."""
    found: dict[str, dict[int, float]] = {name: {} for name in columns}
    for file in sorted((run_dir / "metrics").glob("version_*/metrics.csv"), key=lambda file: int(file.parent.name[8:])):
        for name, values in logged_in(file.parent).items():
            if name in found:
                found[name] |= values
    return found
