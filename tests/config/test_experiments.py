"""The presets: what each one means, value by value, and that an ablation changes one factor of `paper`."""

import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from graysam.config.composing import compose_config, to_plain
from graysam.config.planning import check_config
from graysam.system.environment import conf_dir
from graysam.training.run_directory import differing_keys

FILES = sorted((conf_dir() / "experiment").glob("*.yaml"))
ABLATIONS = [path.stem for path in FILES if path.stem.startswith("ablation_")]
SWEEPS = ("channels_distilled", "channels_untrained", "leave_one_out")  # of what is no delta over `paper`

# Of each ablation: the number of points of its grid without seeds, and the key prefixes that it changes.
FACTORS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ablation_augmentation": (3, ("augment",)),
    "ablation_built_on": (2, ("channels.built_on", "channels.built_on_training")),
    "ablation_channels": (4, ("channels",)),
    "ablation_colour": (2, ("channels.colour",)),
    "ablation_encoder": (2, ("weights",)),
    "ablation_frozen": (3, ("frozen",)),
    "ablation_heads": (3, ("heads",)),
    "ablation_jitter": (3, ("jitter",)),
    "ablation_loss": (4, ("loss",)),
    "ablation_lr": (4, ("optimizer.lr",)),
    "ablation_model": (3, ("model", "weights")),  # each size has its own weights
    "ablation_precision": (2, ("trainer.precision",)),
    "ablation_sampling": (2, ("data.with_replacement",)),
    "ablation_schedule": (3, ("scheduler",)),
    "ablation_small_groups": (2, ("data.cap_small_groups",)),
    "ablation_views": (2, ("views",)),
}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return `{"a.b": value}` of nested dictionaries."""
    if not isinstance(config, dict):
        return {prefix: config}
    parts = [flat(part, f"{prefix}.{key}".lstrip(".")) for key, part in config.items()]
    return {name: value for part in parts for name, value in part.items()}


@functools.cache
def composed(*overrides: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return an experiment's resolved values by key path, which are checked, and its own grid."""
    config = compose_config("train", overrides, conf_dir())
    check_config(config, "train")
    return flat(to_plain(config)), dict(config.hydra.sweeper.params or {})


def values(experiment: str, *overrides: str) -> dict[str, Any]:
    return composed(f"experiment={experiment}", *overrides)[0]


def params(experiment: str) -> dict[str, str]:
    return dict(composed(f"experiment={experiment}")[1])


# Values that make each preset what its documentation says, by experiment and further overrides.
PRESETS: list[tuple[str, dict[str, Any]]] = [
    (
        "paper",  # table 3 and section 3.2, and EfficientViT-SAM's encoder with MedSAM's heads
        {
            "model.name": "efficientvit_sam_l0",
            "weights": "weights/efficientvit_sam_l0.pt",
            "heads": "weights/medsam_vit_b.pth",
            "channels._target_": "graysam.imaging.channels.Paper",
            "channels.built_on": "resized",
            "channels.built_on_training": "resized",
            "jitter._target_": "graysam.data.augment.PositionSizeJitter",
            "views._target_": "graysam.data.views.FullViews",
            "data.batch_size": 32,
            "data.samples_per_group": 1000,
            "data.with_replacement": False,
            "data.cap_small_groups": False,
            "optimizer.lr": 5e-5,
            "scheduler._target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "scheduler_monitor": "val/loss",
            "monitor": "val/loss",
            "trainer.max_epochs": 300,
            "augment": "absent",  # no flips, no crops
        },
    ),
    (
        "released",  # every difference between the released code and the paper that concerns training
        {
            "model.name": "efficientvit_sam_l0",
            "weights": "weights/efficientvit_sam_l0.pt",
            "heads": None,
            "match_embedding_scale": False,
            "channels._target_": "graysam.imaging.channels.Released",
            "channels.iterations": 1,
            "channels.kappa": 20.0,
            "channels.gamma": 0.1,
            "channels.built_on": "native",
            "channels.built_on_training": "padded",
            "channels.colour": "grey",
            "augment.flip._target_": "graysam.data.augment.Flip",
            "augment.flip.horizontal": 0.5,
            "augment.flip.vertical": 0.5,
            "augment.crop_shift._target_": "absent",
            "jitter._target_": "graysam.data.augment.OutwardJitter",
            "jitter.max_px": 5,
            "views._target_": "graysam.data.views.FullViews",
            "optimizer.lr": 2e-5,
            "optimizer.weight_decay": 0.01,
            "trainer.max_epochs": 1000,
            "scheduler._target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "scheduler.factor": 0.9,
            "scheduler.patience": 5,
            "scheduler.mode": "min",
            "scheduler_monitor": "train/loss_epoch",
            "monitor": "val/loss",
            "data.samples_per_group": 1000,
            "data.with_replacement": True,
            "data.cap_small_groups": True,
            "quantize.methods": ["none", "dynamic_qint8"],
            "frozen": [],
        },
    ),
    (
        "proposed",  # the paper's method from what comes with graysam
        {
            "model.name": "efficientvit_sam_l0",
            "weights": "graysam_l0",
            "heads": None,
            "channels._target_": "graysam.imaging.channels.PeronaMalik",
            "channels.colour": "keep",
            "jitter._target_": "graysam.data.augment.PositionSizeJitter",
            "views._target_": "graysam.data.views.FullViews",
            "scheduler._target_": "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "data.shards_dir": "data_shards/demo",
            "data.prepare._target_": "graysam.data.demo.build_demo",
            "compare": True,
            "require_improvement": True,
            "quantize.methods": ["none", "dynamic_qint8"],
        },
    ),
    ("paper_baseline", {"weights": "lite_medsam", "heads": None, "data.shards_dir": "data_shards/challenge"}),
    ("finetune", {"distillation.weight": 1.0, "distillation.segmentation_weight": 1.0}),
    (
        "recipe_distill",  # 1,600 steps of 16, then 500 of 8; both differ from distill and finetune in more than length
        {
            "model.name": "graysam_s",
            "weights": None,
            "frozen": ["prompt_encoder", "mask_decoder"],
            "data.batch_size": 16,
            "optimizer.lr": 1.5e-3,
            "trainer.max_steps": 1600,
            "scheduler.total_steps": 1600,
            "distillation.prompt_weight": 0.0,
            "callbacks.averaging.decay": 0.995,
            "callbacks.checkpoint.save_weights_only": False,
        },
    ),
    (
        "recipe_finetune",
        {
            "model.name": "graysam_s",
            "weights": "experiments/recipe_distill/seed0/checkpoints/best.ckpt",
            "data.batch_size": 8,
            "optimizer.lr": 4e-4,
            "lr_factors.mask_decoder": 0.2,
            "trainer.max_steps": 500,
            "scheduler.total_steps": 500,
            "distillation.weight": 0.5,
            "distillation.segmentation_weight": 1.0,
            "jitter.outwards": 0.2,
            "jitter.inwards": 0.05,
            "loss.boundary_weight": 0.0,
        },
    ),
    ("finetune distillation=none", {"distillation": "absent", "distillation.weight": "absent"}),
    ("ablation_loss loss=without_bce", {"loss.bce_weight": 0.0, "loss.dice_weight": 1.0, "loss.iou_weight": 1.0}),
    ("ablation_model model=efficientvit_sam_l1", {"weights": "weights/efficientvit_sam_l1.pt"}),
]


@pytest.mark.parametrize(("given", "expected"), PRESETS, ids=[given for given, _ in PRESETS])
def test_a_preset_has_the_values_of_its_documentation(given: str, expected: dict[str, Any]) -> None:
    found = values(*given.split())
    assert {key: found.get(key, "absent") for key in expected} == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_is_valid_and_says_its_command_and_name(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    grid = "-m " if path.stem in (*ABLATIONS, *SWEEPS) else ""
    assert lines[1] == f"# python -m graysam.train {grid}experiment={path.stem}"
    assert values(path.stem)["name"] == path.stem
    assert bool(params(path.stem)) == bool(grid)
    loggers = {key.split(".")[1] for key in values(path.stem) if key.startswith("logger.")}
    assert loggers == {"csv", "wandb"}


@pytest.mark.parametrize(
    ("proposed", "baseline", "shorter"),
    [("proposed", "baseline", {"data.samples_per_group", "trainer.max_epochs"}), ("paper", "paper_baseline", set())],
)
def test_a_baseline_differs_in_model_weights_and_channels_alone(
    proposed: str, baseline: str, shorter: set[str]
) -> None:
    """But for the length of training on the embedded data, as LiteMedSAM takes several times as long for a slice."""
    lines = differing_keys(values(proposed, "name=x"), values(baseline, "name=x"))
    changed = {line.partition(":")[0] for line in lines}
    assert shorter <= changed
    kinds = {key.partition(".")[0] for key in changed - shorter}
    assert {"model", "weights", "channels"} <= kinds <= {"model", "weights", "heads", "channels"}


def test_leaving_one_modality_out_changes_nothing_else() -> None:
    here = ["weights=a.ckpt", "run_dir=here"]
    parsed = OverridesParser.create().parse_override(f"x={params('leave_one_out')['data.exclude_groups']}")
    points = [f"data.exclude_groups={value}" for value in parsed.sweep_string_iterator()]
    arms = [dict(values("leave_one_out", *here, point)) for point in points]
    left_out = [arm.pop("data.exclude_groups") for arm in arms]
    assert left_out == [[], ["CT"], ["Dermoscopy"], ["MR"], ["Microscopy"], ["PET"], ["US"]]
    assert all(arm == arms[0] for arm in arms)


@pytest.mark.parametrize(
    ("name", "seeds", "given"),
    [("channels_distilled", "0,1", ("weights=a.ckpt",)), ("channels_untrained", "0", ())],
)
def test_a_comparison_of_channels_changes_nothing_else(name: str, seeds: str, given: tuple[str, ...]) -> None:
    assert params(name) == {"channels": "replicate,paper,released,perona_malik", "seed": seeds}
    arms = [values(name, *given, "run_dir=here", f"channels={c}") for c in params(name)["channels"].split(",")]
    changed = {line.partition(":")[0] for arm in arms for line in differing_keys(arms[0], arm)}
    assert {key.partition(".")[0] for key in changed} == {"channels"}
    assert {arm["channels.colour"] for arm in arms} == {"keep"}


@pytest.mark.parametrize("name", ABLATIONS)  # each has its factor above
def test_an_ablation_changes_one_factor_of_the_papers_recipe(name: str) -> None:
    """Every point of the grid composes, differs from `paper` in the factor alone, and from every other point."""
    grid = params(name)
    assert grid.pop("seed") == "0,1", "a spread needs seeds"
    here = ["name=here", "run_dir=here"]  # where a run lies is no factor
    paper = values("paper", *here)
    parsed = [OverridesParser.create().parse_override(f"{key}={value}") for key, value in grid.items()]
    points = list(itertools.product(*([f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] for o in parsed)))
    assert len(points) == FACTORS[name][0]
    arms = [values(name, *point, *here) for point in points]
    for arm in arms:
        changed = [line.partition(":")[0] for line in differing_keys(paper, arm)]
        assert [key for key in changed if not f"{key}.".startswith(tuple(f"{f}." for f in FACTORS[name][1]))] == []
    assert sum(arm == paper for arm in arms) == 1, "the paper's recipe itself is one of the points"
    assert len({str(sorted(arm.items(), key=str)) for arm in arms}) == len(arms)
