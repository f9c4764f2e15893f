"""Runs, and the parts of a run, as the command `train` builds them."""

from functools import partial
from typing import Any

from graysam.config.building import build
from graysam.training import setup
from graysam.training.distillation import Distillation
from graysam.training.run import run_training

run = partial(run_training, build=build)
build_data = partial(setup.build_data, build=build)
build_module = partial(setup.build_module, build=build)
build_trainer = partial(setup.build_trainer, build=build)


def build_distillation(config: dict[str, Any]) -> Distillation:
    return build(config["distillation"])
