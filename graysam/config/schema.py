"""The keys at the top of `conf/train.yaml`, and the arguments that code supplies."""

from dataclasses import dataclass
from typing import Literal

from graysam.config.targets import Target

Group = dict[str, Target | None]  # several objects; null switches one off
Optional = Target | dict[str, Target]  # one object, or the choice `none`: {}
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class TrainConfig:
    """`conf/train.yaml`: one group per object, then the settings of the run itself."""

    data: Target
    jitter: Target
    views: Target
    augment: Group
    channels: Target
    model: Target
    loss: Target
    distillation: Optional
    optimizer: Target
    scheduler: Optional
    trainer: Target
    callbacks: Group
    logger: Group
    quantize: Target
    name: str
    seed: int
    run_dir: str
    weights: str | None
    heads: str | None
    match_embedding_scale: bool
    monitor: str
    monitor_mode: Mode
    scheduler_monitor: str
    scheduler_mode: Mode
    channels_last: bool
    sync_batchnorm: bool
    compile: bool
    threads: int | None
    compare: bool
    require_improvement: bool
    lr_factors: dict[str, float]
    unused: list[str]
    frozen: list[str]


# By key path: the arguments that code adds when it builds or calls the object there.
SUPPLIED: dict[str, tuple[str, ...]] = {
    "data": ("scheme", "teacher_scheme", "jitter", "views", "augmentations"),
    "data.prepare": ("output_dir",),
    "optimizer": ("params",),
    "scheduler": ("optimizer",),
    "trainer": ("callbacks", "logger", "default_root_dir", "plugins"),
}
