"""The training loop: what learns, what stays, what is stored, and what stops it."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from graysam.data.dataset import Batch
from graysam.models.weights import METADATA_KEY, read_weights
from graysam.system.environment import conf_dir
from graysam.training.module import SamModule
from graysam.training.run_directory import RunDirectory, differing_keys
from graysam.training.setup import check_inputs
from tests.support.config import compose_plain
from tests.support.tiny import overrides
from tests.support.training import build_data, build_module, build_trainer, changed_by_a_step, run

Config = Callable[..., dict[str, Any]]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def config(toy_shards: Path, run_dir: Path) -> Config:
    """Return a function that composes a tiny run with further overrides."""
    return lambda *more: compose_plain("train", overrides(toy_shards, run_dir, *more))


def module_and_batch(config: dict[str, Any]) -> tuple[SamModule, Batch]:
    torch.manual_seed(0)
    data = build_data(config)
    module = build_module(config, data=data)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no trainer is attached here
    return module, next(iter(data.train_dataloader()))


def test_a_step_moves_encoder_and_heads_but_not_what_boxes_never_reach(config: Config) -> None:
    given = config()
    module, batch = module_and_batch(given)
    still = module.model.state_dict().keys() - changed_by_a_step(module, batch)
    still = {key for key in still if not key.endswith("gaussian_matrix")}
    assert still
    assert all(key.startswith(tuple(given["unused"])) for key in still), sorted(still)
    # DDP would wait for ever for a parameter without gradient
    assert [name for name, p in module.model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_frozen_parts_keep_weights_and_batch_norm_statistics(config: Config) -> None:
    module, batch = module_and_batch(config("frozen=[image_encoder.backbone]"))
    moved = changed_by_a_step(module, batch)
    assert not [key for key in moved if key.startswith("image_encoder.backbone.")]
    assert "image_encoder.neck.laterals.0.norm.running_mean" in moved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("frozen=[image_encoder.bakbone]", "frozen: the model has no part named image_encoder.bakbone"),
        ("+lr_factors.mask_dekoder=0.2", "lr_factors: the model has no part named mask_dekoder"),
    ],
)
def test_unknown_parts_are_refused(config: Config, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module_and_batch(config(change))


def test_fit_enters_training_mode_by_itself(config: Config) -> None:
    """Lightning keeps the mode it finds; batch norm must gather statistics all the same."""
    given = config()
    data = build_data(given)
    module = build_module(given, data=data).eval()
    name = "image_encoder.backbone.stem.in_conv.norm.running_mean"
    before = module.model.get_buffer(name).clone()
    build_trainer(given).fit(module, datamodule=data)
    assert not torch.equal(module.model.get_buffer(name), before)


def test_an_empty_mask_and_a_loss_that_is_not_finite_name_the_sample(config: Config) -> None:
    module, batch = module_and_batch(config())
    module.eval()  # in training, batch norm would spread the NaN over the batch
    batch.images[1] = float("nan")
    with pytest.raises(FloatingPointError, match=f"sample {batch.keys[1]}: "):
        module.training_step(batch, 0)
    batch.masks[2] = False
    with pytest.raises(ValueError, match=f"sample {batch.keys[2]}: empty mask in train"):
        module.training_step(batch, 0)


def test_padding_boxes_does_not_change_the_loss(config: Config) -> None:
    module, batch = module_and_batch(config("data.boxes_per_image=2"))
    module.eval()
    assert not batch.valid.all()
    logged: dict[str, float] = {}
    module.log = lambda name, value, **kwargs: logged.update({name: float(value)})  # type: ignore[method-assign]
    module.training_step(batch, 0)
    with torch.no_grad():
        terms = [
            module.loss(
                *module.model(batch.images[i : i + 1], batch.boxes[i : i + 1, : int(n)]),
                batch.masks[i : i + 1, : int(n)],
            )["total"]
            for i, n in enumerate(batch.valid.sum(dim=1))
        ]
    assert logged["train/loss"] == pytest.approx(torch.cat(terms, dim=1).mean().item(), abs=1e-5)


def test_a_run_learns_and_keeps_best_and_last_with_their_metadata(config: Config, run_dir: Path) -> None:
    more = ("trainer.max_epochs=3", "data.samples_per_group=12", "optimizer.lr=3e-3", "scheduler=none", "seed=1")
    given = config("compare=true", "require_improvement=true", *more)
    assert run(given) == 0
    best, last = (run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert torch.load(last, weights_only=True)["epoch"] == 2
    file = read_weights(str(best))
    assert set(file.tensors) == set(build_module(given, data=build_data(given)).model.state_dict())
    metadata = torch.load(best, weights_only=True)[METADATA_KEY]
    assert metadata["model"]["heads"]["dim"] == 32
    assert (metadata["channels"]["name"], metadata["weights"]) == ("replicate", [])
    summary = json.loads((run_dir / "summary.json").read_text())
    assert set(summary) == {"start", "fill the box", "trained", "objects", "best_checkpoint"}
    assert set(summary["trained"]) == {"CT", "US", "macro"}
    assert summary["trained"]["macro"]["dsc"] > summary["start"]["macro"]["dsc"] + 0.05
    assert summary["fill the box"]["US"]["dsc"] == pytest.approx(0.86, abs=0.01)  # discs in their boxes
    rows = summary["objects"]
    assert len({(key, prompt) for key, prompt, *_ in rows}) == len(rows) == summary["trained"]["macro"]["n"]
    for modality in ("CT", "US"):
        scores = [(dsc, nsd) for _, _, name, dsc, nsd in rows if name == modality]
        found = summary["trained"][modality]
        assert len(scores) == found["n"] > 0
        assert np.mean(scores, axis=0) == pytest.approx([found["dsc"], found["nsd"]], abs=1e-6)
    columns = (run_dir / "metrics" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    terms = {f"val/loss{term}" for term in ("", "_bce", "_dice", "_iou")}
    terms |= {f"{name.replace('val', 'train')}_epoch" for name in terms}
    rows_of_scores = ("group/CT_toy", "modality/CT", "macro")
    assert terms | {f"val/{s}_slice256/{row}" for s in ("loss", "dsc", "nsd") for row in rows_of_scores} <= set(columns)

    # the same config finds its finished run and leaves it alone; another one is refused
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert run(given) == 0
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    with pytest.raises(ValueError, match=r"optimizer.lr: 0.003 -> 0.002"):
        run(config("compare=true", "require_improvement=true", *more, "optimizer.lr=2e-3"))


def test_no_improvement_is_an_exit_code(config: Config, run_dir: Path) -> None:
    given = config("compare=true", "require_improvement=true")
    RunDirectory(run_dir, given).claim(ranks=1, weights=[], shards_dirs=[])
    scores = {"macro": {"dsc": 0.5, "nsd": 0.5, "n": 1}}
    results = {"start": scores, "fill the box": scores, "trained": scores, "best_checkpoint": "best.ckpt"}
    (run_dir / "summary.json").write_text(json.dumps(results))
    assert run(given) == 1


def test_fewer_validation_samples_than_ranks_are_refused(config: Config) -> None:
    data = build_data(config())
    data.trainer = SimpleNamespace(global_rank=0, world_size=4)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="3 validation samples for 4 ranks"):
        data.val_dataloader()


def test_the_guard_lists_what_differs_and_ignores_what_does_not_change_results(run_dir: Path) -> None:
    first = {"name": "x", "seed": 0, "a": {"b": 1}, "threads": 2, "data": {"num_workers": 0, "size": 256}}
    RunDirectory(run_dir, first).claim(ranks=1, weights=[], shards_dirs=[])
    assert RunDirectory(run_dir, {**first, "threads": 4}).find_last_checkpoint() is None
    differing = differing_keys(first, {**first, "a": {"b": 2}, "data": {"size": 256}, "new": []})
    assert differing == ["a.b: 1 -> 2", "new: absent -> []"]
    with pytest.raises(ValueError, match=r"a\.b: 1 -> 2"):
        RunDirectory(run_dir, {**first, "a": {"b": 2}})


@pytest.mark.parametrize(("names", "foreign"), [((".lock", ".config.json.0123.tmp"), False), (("file",), True)])
def test_only_what_a_killed_run_left_may_lie_in_a_new_runs_folder(
    run_dir: Path, names: tuple[str, ...], foreign: bool
) -> None:
    run_dir.mkdir()
    for name in names:
        (run_dir / name).touch()
    with pytest.raises(ValueError, match="no run of graysam") if foreign else nullcontext():
        RunDirectory(run_dir, {})


def test_the_recipe_says_all_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"weights/efficientvit_sam_l0\.pt.*data_shards/challenge") as error:
        check_inputs(compose_plain("train", ["experiment=paper"]))
    assert "\n" not in str(error.value)
    for remedy in (
        "python -m graysam.pack input_dir=",
        "experiment=proposed",
        "github.com/bowang-lab/MedSAM",
        "weights=PATH",
        "weights=null",
        "heads=lite_medsam",
    ):
        assert remedy in str(error.value)
    with pytest.raises(ValueError, match=r"distillation\.teacher\.weights: .*vit_b\.pth does not exist.*bowang"):
        check_inputs(compose_plain("train", ["experiment=distill", "distillation=medsam_vit_b"]))


# An ablation is `paper` but for one factor; tests/config/test_experiments.py composes all of them.
NAMES = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
EXPERIMENTS = [name for name in NAMES if not name.startswith("ablation_")]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_builds_all_its_parts(toy_shards: Path, tmp_path: Path, name: str) -> None:
    where = [f"data.shards_dir={toy_shards}", "data.prepare=null", f"run_dir={tmp_path / 'run'}"]
    given = compose_plain("train", [f"experiment={name}", *where, "trainer.accelerator=cpu"])
    if given["weights"] != "lite_medsam":
        given |= {"weights": None, "heads": "lite_medsam"}
    check_inputs(given)
    module = build_module(given, data=build_data(given))
    assert build_trainer(given).max_epochs == given["trainer"]["max_epochs"]
    assert module.configure_optimizers()["lr_scheduler"]["monitor"] == given["scheduler_monitor"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["+model.heads.mask_chanels=3"], "mask_chanels"),
        (["+model.heads.input_size=512"], "data.size 256"),
        (["trainer.precision=bf17"], "bf17"),
        (["weights=lite_medsam"], "do not fit the model"),
        (["match_embedding_scale=true"], "heads is null"),
        (["data.further_shards=[nowhere,there]"], "no shards in nowhere, there: the challenge"),
        (["data.samples_per_group=0"], "samples_per_group"),
        (["monitor=val/dsc_slice256/macro"], "monitor val/dsc_slice256/macro needs monitor_mode=max; it is min"),
        (["scheduler_monitor=train/loss"], "scheduler_monitor train/loss is not logged; logged are val/loss"),
        (["name=a/../../b"], "leads out of the runs' folder"),
    ],
)
def test_what_cannot_run_is_refused_before_the_run_directory_is_made(
    config: Config, run_dir: Path, changes: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        run(config(*changes))
    assert "\n" not in str(error.value).strip()
    assert not run_dir.exists()
