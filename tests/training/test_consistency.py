"""Settings that contradict each other are refused before anything runs, each with a remedy; the rest trains."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.config import compose_plain
from tests.support.tiny import overrides
from tests.support.training import logged, run

Config = Callable[..., dict[str, Any]]
# Five batches an epoch; the shards have three held-out slices.
COMMON = ("data.samples_per_group=10", "logger=none", "callbacks.progress=null")
LINEAR = (
    "+scheduler._target_=torch.optim.lr_scheduler.LinearLR",
    *("+scheduler._partial_=true", "+scheduler.total_iters=9"),
)
STOPPING = (
    "+callbacks.stopping={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/loss,patience:1,min_delta:100}"
)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def config(toy_shards: Path, run_dir: Path) -> Config:
    return lambda *more: compose_plain("train", overrides(toy_shards, run_dir, *COMMON, *more))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        # the schedule
        (
            ["scheduler=cosine", "trainer.max_epochs=-1", "trainer.max_steps=15"],
            ["scheduler.T_max=-1", "trainer.max_epochs=-1", "trainer.max_steps=15", "set scheduler.T_max=3"],
        ),
        (
            ["scheduler=cosine", "trainer.max_epochs=300", "trainer.max_steps=15"],
            ["scheduler.T_max=300", "set scheduler.T_max=3"],
        ),
        (["scheduler=cosine", "trainer.max_epochs=-1", "trainer.max_time=00:00:01:00"], ["set scheduler.T_max=EPOCHS"]),
        (["scheduler=cosine", "scheduler.T_max=0"], ["scheduler.T_max=0"]),
        (
            ["scheduler=none", *LINEAR],
            ["scheduler.total_iters=9", "trainer.max_epochs=1"],
        ),
        # no validation
        (["trainer.check_val_every_n_epoch=5"], ["trainer.check_val_every_n_epoch=5", "trainer.max_epochs=1"]),
        (["trainer.limit_val_batches=0"], ["trainer.limit_val_batches=0", "monitor=val/loss"]),
        (["trainer.limit_val_batches=0.1"], ["trainer.limit_val_batches=0.1"]),
        (["trainer.max_steps=2"], ["trainer.max_steps=2", "trainer.val_check_interval=1.0", "5 batches an epoch"]),
        (["trainer.max_steps=0"], ["trainer.max_steps=0"]),
        (["trainer.val_check_interval=6"], ["trainer.val_check_interval=6", "5 batches", "data.samples_per_group"]),
        (
            ["trainer.val_check_interval=12", "trainer.check_val_every_n_epoch=null", "trainer.max_epochs=2"],
            ["trainer.val_check_interval=12", "trainer.max_epochs=2"],
        ),
        (["trainer.limit_train_batches=0"], ["trainer.limit_train_batches=0"]),
        (["trainer.max_epochs=2", "trainer.accumulate_grad_batches=3", "trainer.max_steps=1"], ["trainer.max_steps=1"]),
        # no end, or an end before the beginning
        (["trainer.max_epochs=-1"], ["trainer.max_epochs=-1", "trainer.max_steps=-1", "trainer.max_time"]),
        (["+trainer.min_epochs=3"], ["trainer.min_epochs=3", "trainer.max_epochs=1"]),
        # metrics and checkpoints
        (
            ["monitor=val/dsc_slice256/modality/XR", "monitor_mode=max", "scheduler=none"],
            ["monitor=val/dsc_slice256/modality/XR", "it is one of CT, US"],
        ),
        (
            [
                *("monitor=val/nsd_slice256/group/CT_toy", "monitor_mode=max", "scheduler=none"),
                *("trainer.limit_val_batches=1", "data.val_batch_size=1"),
            ],
            ["trainer.limit_val_batches=1", "it is one of US"],
        ),
        (["monitor=val/embedding_error"], ["monitor=val/embedding_error", "distillation=none"]),
        (["callbacks.checkpoint=null"], ["callbacks.checkpoint", "monitor=val/loss"]),
        (["callbacks.checkpoint.save_top_k=0"], ["save_top_k"]),
        ([STOPPING.replace("val/loss", "val/embedding_error")], ["EarlyStopping.monitor=val/embedding_error"]),
        # options of the Trainer
        (["+trainer.overfit_batches=2"], ["trainer.overfit_batches=2", "trainer.limit_train_batches"]),
        (["trainer.precision=bf16-true"], ["trainer.precision=bf16-true", "bf16-mixed"]),
        (["trainer.precision=64-true"], ["trainer.precision=64-true", "32-true"]),
        (["trainer.precision=transformer-engine"], ["trainer.precision=transformer-engine"]),
        (["+trainer.fast_dev_run=true"], ["trainer.fast_dev_run=True", "trainer.limit_train_batches=2"]),
        (["+trainer.enable_checkpointing=false"], ["trainer.enable_checkpointing=False"]),
        (["+trainer.barebones=true"], ["trainer.barebones=True"]),
        (["trainer.use_distributed_sampler=true"], ["trainer.use_distributed_sampler=True"]),
        (["+trainer.gradient_clip_algorithm=median"], ["median"]),
        (["trainer.strategy=none"], ["none"]),
    ],
)
def test_contradictions_are_refused_by_name(
    config: Config, run_dir: Path, changes: list[str], named: list[str]
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        run(config(*changes))
    message = str(error.value)
    assert all(word in message for word in named), message
    assert "\n" not in message
    assert not run_dir.exists()


@pytest.mark.parametrize(
    "changes",
    [
        ["+trainer.reload_dataloaders_every_n_epochs=1", "trainer.num_sanity_val_steps=-1", "trainer.max_epochs=2"],
        ["trainer.val_check_interval=2", "trainer.limit_val_batches=2", "trainer.accumulate_grad_batches=9"],
        ["trainer.val_check_interval=0.5", "trainer.max_steps=3", "+trainer.detect_anomaly=true"],
        ["trainer.val_check_interval=7", "trainer.check_val_every_n_epoch=null", "trainer.max_epochs=2"],
        ["trainer.deterministic=true", "+trainer.inference_mode=false", "+trainer.profiler=simple"],
        ["trainer.precision=bf16-mixed", "trainer.limit_train_batches=0.5", "trainer.gradient_clip_val=1"],
    ],
)
def test_other_options_train_and_keep_the_best(config: Config, run_dir: Path, changes: list[str]) -> None:
    assert run(config("data.samples_per_group=4", "data.batch_size=2", *changes)) == 0
    assert (run_dir / "checkpoints" / "best.ckpt").is_file()


def test_a_cosine_over_the_epochs_of_the_steps_only_falls(config: Config, run_dir: Path) -> None:
    more = ("trainer.max_epochs=-1", "trainer.max_steps=15", "scheduler=cosine", "scheduler.T_max=3", "logger=csv")
    assert run(config(*more)) == 0
    rates = list(logged(run_dir, ["lr-AdamW"])["lr-AdamW"].values())
    assert len(rates) == 3 and rates == sorted(rates, reverse=True) and rates[0] > rates[-1]


# ------------------------------------------------------------------ stopped by a callback
def state(run_dir: Path) -> tuple[int, str]:
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return last["global_step"], hashlib.sha256((run_dir / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()


def forget_the_end(run_dir: Path) -> dict[str, Any]:
    """Leave the run as if it had been killed after training, and return what it had found."""
    summary = json.loads((run_dir / "summary.json").read_text())
    (run_dir / "summary.json").unlink()
    return summary["trained"]


@pytest.mark.parametrize(
    "changes",
    [
        [STOPPING, "trainer.max_epochs=9"],
        [STOPPING, "trainer.max_epochs=9", "trainer.max_steps=40"],
        [STOPPING, "trainer.max_epochs=9", "trainer.val_check_interval=2"],
        [STOPPING.replace("min_delta:100", "stopping_threshold:99"), "trainer.max_epochs=9"],
        ["trainer.max_epochs=9", "trainer.max_steps=7"],
        ["trainer.max_epochs=-1", "trainer.max_time={seconds: 1}"],
    ],
)
def test_a_run_that_was_stopped_trains_nothing_more(config: Config, run_dir: Path, changes: list[str]) -> None:
    given = config("callbacks.resume.every_steps=1", *changes)
    assert run(given) == 0
    before = state(run_dir)
    found = forget_the_end(run_dir)
    for _ in range(2):
        assert run(given) == 0
        assert state(run_dir) == before
        assert forget_the_end(run_dir) == found


def test_a_run_that_time_ends_before_validation_keeps_its_last_weights(
    config: Config, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert (
        run(config("trainer.max_time={microseconds: 1}", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=2"))
        == 0
    )
    assert "holds the last weights, not the best" in caplog.text
    assert (run_dir / "checkpoints" / "best.ckpt").is_file()
