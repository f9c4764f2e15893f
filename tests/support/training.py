"""Runs, and the parts of a run, as the command `train` builds them."""

from functools import partial
from typing import Any

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
