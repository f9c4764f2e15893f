"""Two ranks train as one process with the doubled batch does, through Lightning's own launcher."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graysam.training import module
from graysam.training.batch_norm import CrossRankBatchNorm2d, synchronise
from tests.support.config import compose_plain
from tests.support.tiny import overrides
from tests.support.training import build_data, build_module, logged, run

COLUMNS = ("train/loss", "train/loss_iou", "train/loss_epoch", "val/loss", "val/dsc_slice256/macro", "lr-SGD")
# Slices differ in their number of objects, so that the ranks' batches do, too.
SETTINGS = (
    "data.samples_per_group=12",
    "data.boxes_per_image=3",
    "scheduler.patience=0",
    "optimizer._target_=torch.optim.SGD",  # Adam divides by gradients' size: rounding of zeros would become steps
    "optimizer.lr=0.05",
)


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
DDP = ("trainer.devices=2", "trainer.strategy=ddp")


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "graysam.train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=ENVIRONMENT, text=True)


@pytest.mark.slow
def test_two_ranks_equal_one_with_the_doubled_batch(toy_shards: Path, tmp_path: Path) -> None:
    runs = {"one": ("data.batch_size=8", "trainer.devices=1"), "two": ("data.batch_size=4", *DDP)}
    first, second = (overrides(toy_shards, tmp_path / name, *SETTINGS, *settings) for name, settings in runs.items())
    assert run(compose_plain("train", first)) == 0
    assert start(*second).wait(300) == 0
    one, two = (logged(tmp_path / name, COLUMNS) for name in runs)
    assert len(one["train/loss"]) == 3
    for name in COLUMNS:
        assert two[name].keys() == one[name].keys(), name
        for step, value in one[name].items():
            assert two[name][step] == pytest.approx(value, rel=2e-5, abs=1e-7), (name, step)
    states = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for name in runs
    ]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-5, msg=key)


def test_the_ranks_losses_average_to_that_of_the_doubled_batch(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where their numbers of objects differ: DDP averages the gradients of these losses."""
    config = compose_plain("train", overrides(toy_shards, tmp_path, *SETTINGS, "data.batch_size=8"))
    data = build_data(config)
    step = build_module(config, data=data).eval()
    step.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # no trainer is attached here
    batch = next(iter(data.train_dataloader()))
    whole = step.training_step(batch, 0)
    sums = step._loss(batch, "train")[0].over_ranks()
    monkeypatch.setattr(module.TermSums, "over_ranks", lambda _: sums)
    monkeypatch.setattr(module, "world_size", lambda: 2)
    halves = []
    for part in (slice(0, 3), slice(3, 8)):
        fields = {field: getattr(batch, field)[part] for field in ("keys", "images", "boxes", "masks", "valid")}
        halves.append(step.training_step(replace(batch, **fields), 0))
    assert torch.stack(halves).mean().item() == pytest.approx(whole.item(), rel=1e-5)


def test_batch_norm_over_two_ranks_is_pytorchs_over_both_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank has the same batch, so that a sum over both is the double."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.mul_(2))
    torch.manual_seed(0)
    plain = torch.nn.BatchNorm2d(5, eps=1e-3)
    torch.nn.init.normal_(plain.weight)
    ours = torch.nn.Sequential(torch.nn.BatchNorm2d(5, eps=1e-3).eval())
    ours[0].load_state_dict(plain.state_dict())
    before = dict(ours.named_parameters())
    synchronise(ours, gpu=False)
    assert type(ours[0]) is CrossRankBatchNorm2d and not ours[0].training
    assert all(before[name] is parameter for name, parameter in ours.named_parameters())
    for training in (True, True, False):
        plain.train(training)
        ours.train(training)
        images = torch.randn(3, 5, 4, 7) * 3 + 2
        inputs = [images.clone().requires_grad_() for _ in range(2)]
        outputs = [plain(torch.cat([inputs[0], inputs[0]])), ours(inputs[1])]
        torch.testing.assert_close(outputs[1], outputs[0][:3], rtol=1e-5, atol=1e-5)
        for output in outputs:
            output.square().mul(torch.linspace(0, 1, 7)).sum().backward()
        torch.testing.assert_close(2 * inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(2 * ours[0].weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[f"0.{key}"], value)


@pytest.mark.slow
def test_two_ranks_stopped_by_a_signal_resume_exactly(toy_shards: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, "data.batch_size=2", "trainer.max_epochs=4", *DDP]
    whole, broken = (overrides(toy_shards, tmp_path / name, *settings) for name in ("whole", "broken"))
    assert start(*whole).wait(300) == 0
    process = start(*broken)
    metrics = tmp_path / "broken" / "metrics" / "version_0" / "metrics.csv"
    while process.poll() is None and not (metrics.is_file() and len(metrics.read_text().splitlines()) > 5):
        time.sleep(0.02)
    process.terminate()
    assert process.wait(60) == 143
    stored = torch.load(tmp_path / "broken" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < stored < 24
    assert start(*broken).wait(300) == 0
    one, two = (logged(tmp_path / name, COLUMNS) for name in ("whole", "broken"))
    assert len(one["train/loss"]) == 24
    means = [run.pop("train/loss_epoch") for run in (one, two)]
    assert two == one
    assert means[1] == pytest.approx(means[0], rel=1e-6)  # sums over ranks are stored as one, so their order differs
