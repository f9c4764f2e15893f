"""The training loop: what learns, what stays, what is stored, and what stops it."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from graysam import train
from graysam.data.dataset import Batch
from graysam.models.weights import METADATA_KEY, read_weights
from graysam.system.folders import conf_dir
from graysam.training import run as run_module
from graysam.training import setup
from graysam.training.module import SamModule
from graysam.training.run_directory import RunDirectory, differing_keys
from graysam.training.setup import check_inputs
from tests.support.config import compose_plain
from tests.support.lightning_warnings import LIGHTNING_WARNINGS, OWN_CHECKPOINTS
from tests.support.tiny import overrides
from tests.support.training import build_data, build_module, build_trainer, run

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_WARNINGS, OWN_CHECKPOINTS)


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


def step(module: SamModule, batch: Batch) -> None:
    optimizer = module.configure_optimizers()["optimizer"]
    module.train()
    module.training_step(batch, 0).backward()
    optimizer.step()


def changed(module: SamModule, before: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in module.model.state_dict().items() if not torch.equal(value, before[key])}


def snapshot(module: SamModule) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.model.state_dict().items()}


def test_a_step_moves_encoder_and_heads_but_not_what_boxes_never_reach(config: Config) -> None:
    given = config()
    module, batch = module_and_batch(given)
    before = snapshot(module)
    step(module, batch)
    still = {key for key in before.keys() - changed(module, before) if not key.endswith("gaussian_matrix")}
    assert still
    assert all(key.startswith(tuple(given["unused"])) for key in still), sorted(still)
    # DDP would wait for ever for a parameter without gradient
    assert [name for name, p in module.model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_frozen_parts_keep_weights_and_batch_norm_statistics(config: Config) -> None:
    module, batch = module_and_batch(config("frozen=[image_encoder.backbone]"))
    before = snapshot(module)
    step(module, batch)
    moved = changed(module, before)
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
    before = snapshot(module)
    build_trainer(given).fit(module, datamodule=data)
    assert "image_encoder.backbone.stem.in_conv.norm.running_mean" in changed(module, before)


def test_an_empty_mask_and_a_loss_that_is_not_finite_name_the_sample(config: Config) -> None:
    module, batch = module_and_batch(config())
    module.eval()  # in training, batch norm would spread the NaN over the batch
    batch.images[1] = float("nan")
    with pytest.raises(FloatingPointError, match=f"sample {batch.keys[1]}; "):
        module.training_step(batch, 0)
    batch.masks[2] = False
    with pytest.raises(ValueError, match=f"empty mask in train: sample {batch.keys[2]};"):
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
                *module(batch.images[i : i + 1], batch.boxes[i : i + 1, : int(n)]),
                batch.masks[i : i + 1, : int(n)],
            )["total"]
            for i, n in enumerate(batch.valid.sum(dim=1))
        ]
    assert logged["train/loss"] == pytest.approx(torch.cat(terms, dim=1).mean().item(), abs=1e-5)


def test_a_run_keeps_best_and_last_with_their_metadata(config: Config, run_dir: Path) -> None:
    given = config("compare=true", "trainer.max_epochs=2", "monitor=val/loss")
    assert run(given) == 0
    best, last = (run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    content = torch.load(best, weights_only=True)
    assert content[METADATA_KEY]["model"]["heads"]["dim"] == 32
    assert content[METADATA_KEY]["channels"]["name"] == "replicate"
    assert content[METADATA_KEY]["weights"] == []
    assert torch.load(last, weights_only=True)["epoch"] == 1
    file = read_weights(str(best))
    assert file.metadata is not None
    assert set(file.tensors) == set(build_module(given, data=build_data(given)).model.state_dict())
    summary = json.loads((run_dir / "summary.json").read_text())
    assert set(summary) == {"start", "fill the box", "trained", "objects", "best_checkpoint"}
    rows = summary["objects"]
    assert len({(key, prompt) for key, prompt, *_ in rows}) == len(rows)
    for modality in ("CT", "US"):
        scores = [(dsc, nsd) for _, _, name, dsc, nsd in rows if name == modality]
        found = summary["trained"][modality]
        assert len(scores) == found["n"] > 0
        assert np.mean(scores, axis=0) == pytest.approx([found["dsc"], found["nsd"]], abs=1e-6)
    assert len(rows) == summary["trained"]["macro"]["n"]
    assert set(summary["trained"]) == {"CT", "US", "macro"}
    assert summary["fill the box"]["US"]["dsc"] == pytest.approx(0.86, abs=0.01)  # discs in their boxes
    columns = (run_dir / "metrics" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    terms = {f"val/loss{term}" for term in ("", "_bce", "_dice", "_iou")}
    terms |= {f"{name.replace('val', 'train')}_epoch" for name in terms}
    rows_of_scores = ("group/CT_toy", "modality/CT", "macro")
    assert terms | {f"val/{s}_slice256/{row}" for s in ("loss", "dsc", "nsd") for row in rows_of_scores} <= set(columns)

    # the same config finds its finished run and leaves it alone; another one is refused
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert run(given) == 0
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    other = config("compare=true", "trainer.max_epochs=2", "optimizer.lr=2e-3")
    with pytest.raises(ValueError, match=r"optimizer.lr: 0.001 -> 0.002"):
        run(other)


def test_training_learns_the_toy_discs(config: Config, run_dir: Path) -> None:
    given = config(
        "compare=true",
        "require_improvement=true",
        "trainer.max_epochs=5",
        "data.samples_per_group=12",
        "optimizer.lr=3e-3",
        "scheduler=none",
        "seed=1",
    )
    assert run(given) == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["trained"]["macro"]["dsc"] > summary["start"]["macro"]["dsc"] + 0.05


def test_no_improvement_is_an_exit_code(config: Config) -> None:
    given = config("compare=true", "require_improvement=true", "optimizer.lr=0.0", "frozen=[image_encoder]")
    assert run(given) == 1


def test_fewer_validation_samples_than_ranks_are_refused(config: Config) -> None:
    data = build_data(config())
    data.trainer = SimpleNamespace(global_rank=0, world_size=4)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="3 validation samples for 4 ranks"):
        data.val_dataloader()


def test_the_guard_lists_what_differs_and_ignores_what_does_not_change_results(run_dir: Path) -> None:
    first = {"a": {"b": 1}, "threads": 2, "data": {"num_workers": 0, "size": 256}}
    RunDirectory(run_dir, first).claim({})
    assert RunDirectory(run_dir, {**first, "threads": 4}).find_last_checkpoint() is None
    differing = differing_keys(first, {"a": {"b": 2}, "data": {"size": 256}, "new": []})
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


def test_proposed_on_a_fresh_clone_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "graysam.train", "experiment=proposed"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    for remedy in (
        "python -m graysam.pack input_dir=",
        "data=demo",
        "weights=PATH",
        "weights=null",
        "heads=lite_medsam",
        "weights/efficientvit_sam_l0.pt",
        "data_shards/challenge",
    ):
        assert remedy in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("optimizer.lrr=1", "lrr"),
        ("experiment=quikstart", "quikstart"),
        ("data.batch_size=[", "data.batch_size=["),
        ("weights=nowhere.pth", "nowhere.pth"),
    ],
)
def test_config_mistakes_end_with_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argument: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["graysam.train", argument])
    assert train.main() == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# An ablation is `proposed` but for one factor; tests/config/test_experiments.py composes all of them.
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


def test_every_top_level_key_is_read() -> None:
    source = "".join(
        p.read_text() for p in (Path(setup.__file__), Path(run_module.__file__), *conf_dir().rglob("*.yaml"))
    )
    for key in compose_plain("train"):
        assert f'config["{key}"]' in source or f"${{{key}" in source, key


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["+optimizer.lrr=1"], "lrr"),
        (["+model.heads.mask_chanels=3"], "mask_chanels"),
        (["+model.heads.input_size=512"], "data.size 256"),
        (["+model.heads.embedding_size=32"], "embedding_size"),
        (["model.encoder.embedding_dim=64"], "embedding_dim"),
        (["trainer.precision=bf17"], "bf17"),
        (["weights=lite_medsam"], "do not fit the model"),
        (["match_embedding_scale=true"], "heads is null"),
        (["data.further_shards=[nowhere]"], "no shards in nowhere: pack them"),
        (["data.samples_per_group=0"], "samples_per_group"),
        (["data.batch_size=0"], "batch_size"),
    ],
)
def test_what_cannot_run_is_refused_before_the_run_directory_is_made(
    config: Config, run_dir: Path, changes: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as error:
        run(config(*changes))
    assert "\n" not in str(error.value).strip()
    assert not run_dir.exists()


def test_null_and_none_mean_none(config: Config) -> None:
    given = config("logger=none", "callbacks.progress=null", "scheduler=none", "augment=none")
    trainer = build_trainer(given)
    assert trainer.loggers == []
    assert "TQDMProgressBar" not in {type(callback).__name__ for callback in trainer.callbacks}


def test_proposed_is_the_papers_text() -> None:
    given = compose_plain("train", ["experiment=proposed"])
    assert given["optimizer"]["lr"] == 5e-5
    assert given["trainer"]["max_epochs"] == 300
    assert given["data"]["batch_size"] == 32
    assert given["data"]["samples_per_group"] == 1000
    assert given["augment"] == {}
    assert given["channels"]["_target_"].endswith("Paper")
    assert given["model"]["name"] == "efficientvit_sam_l0"
