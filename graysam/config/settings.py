"""The top-level keys of `conf/*.yaml` with their types, and the arguments that code adds to the objects below them."""

from typing import Any, Literal, TypedDict

from graysam.config.annotations import Built


class Nothing(TypedDict):
    """The choice `none` of a group of one object: `{}`."""


Several = dict[str, Built | None]  # a group of several objects, of which each may be switched off by null


class QuantizeSettings(TypedDict):
    """`conf/quantize`: what is compared after training, and how its times are taken."""

    kinds: list[str]
    threads: int
    repeats: int
    warmup: int
    timing_images: int
    max_images: int | None
    calibration_images: int


class TrainSettings(TypedDict):
    """`conf/train.yaml`: one group per object, then the run's own settings."""

    data: Built
    jitter: Built
    augment: Several
    channels: Built
    model: Built
    loss: Built
    distillation: Built | Nothing
    optimizer: Built
    scheduler: Built | Nothing
    trainer: Built
    callbacks: Several
    logger: Several
    quantize: QuantizeSettings
    name: str
    seed: int
    run_dir: str
    weights: str | None
    heads: str | None
    match_embedding_scale: bool
    monitor: str
    monitor_mode: Literal["min", "max"]
    scheduler_monitor: str
    scheduler_mode: Literal["min", "max"]
    channels_last: bool
    sync_batchnorm: bool
    threads: int | None
    compare: bool
    require_improvement: bool
    lr_factors: dict[str, float]
    unused: list[str]
    frozen: list[str]


class DemoSettings(TypedDict):
    """How `graysam.data.demo.build_demo` cuts the template brain."""

    stride: int
    slab: int
    gap: int


class PackSettings(TypedDict):
    """`conf/pack.yaml`."""

    source: Literal["npz", "images", "demo"]
    input_dir: str | None
    output_dir: str | None
    overwrite: bool
    demo: DemoSettings
    val_fraction: float
    split_by: Literal["patient", "slice"]
    seed: int
    patient_pattern: str | None
    spacing_order: Literal["zyx", "xyz"]
    size: int
    samples_per_shard: int
    workers: int


SETTINGS: dict[str, Any] = {"train": TrainSettings, "pack": PackSettings}

# By key path: what the code gives to an object when it builds or calls it.
SUPPLIED: dict[str, tuple[str, ...]] = {
    "data": ("scheme", "teacher_scheme", "jitter", "augmentations"),
    "data.prepare": ("output_dir",),
    "optimizer": ("params",),
    "scheduler": ("optimizer",),
    "trainer": ("callbacks", "logger", "default_root_dir", "plugins"),
}

# By key path: the dictionary whose keys are the only items that a list may hold.
REGISTRIES: dict[str, str] = {"quantize.kinds": "graysam.exporting.methods.KINDS"}
