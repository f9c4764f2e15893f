"""Averaged weights are what is validated, kept as the best, exported and resumed."""

import json
import os
import signal

import pytest
import torch

from graysam.config.targets import build
from graysam.models.registry import open_pretrained
from graysam.training.averaging import AveragedWeights
from tests.support.training import logged, run
from tests.training.test_resume import DoAt, Runs, run_and_kill, run_with, runs, slow  # noqa: F401

EMA = ("callbacks=ema", "callbacks.averaging.decay=0.8", "scheduler=warmup_cosine", "scheduler.warmup_steps=3")
STEPS = ("trainer.max_steps=13", "trainer.max_epochs=-1", "trainer.check_val_every_n_epoch=null")
CHANGES = (*EMA, *STEPS, "trainer.val_check_interval=4")
ACCUMULATED = (*EMA, *STEPS, "trainer.val_check_interval=6", "trainer.accumulate_grad_batches=2")


@pytest.mark.parametrize(
    ("hook", "count", "changes"),
    [
        ("on_train_batch_end", 7, CHANGES),
        slow("on_validation_batch_end", 2, CHANGES),
        slow("on_train_batch_end", 11, ACCUMULATED),
    ],
)
def test_a_killed_run_resumes_with_the_same_average(
    runs: Runs,  # noqa: F811
    hook: str,
    count: int,
    changes: tuple[str, ...],
) -> None:
    given = runs.config(*changes)
    run_and_kill(given, hook, count)
    assert run(given) == 0
    runs.assert_same(*changes)
    states = [
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)
        for path in (runs.run_dir, runs.never_stopped(*changes))
    ]
    for key in ("current_model_state", "averaging_state"):
        assert states[0][key].keys() == states[1][key].keys()
        assert all(torch.equal(value, states[1][key][name]) for name, value in states[0][key].items())


def test_a_signal_within_validation_stores_the_average_as_such(runs: Runs) -> None:  # noqa: F811
    given = runs.config(*CHANGES)
    assert run_with(given, DoAt("on_validation_batch_start", 2, lambda _: os.kill(os.getpid(), signal.SIGTERM))) == 143
    assert run(given) == 0
    runs.assert_same(*CHANGES)


def test_the_best_checkpoint_holds_the_average_that_was_validated(runs: Runs) -> None:  # noqa: F811
    """Its scores after training are those of the validation that chose it, and a file of weights is the average."""
    whole = runs.never_stopped(*CHANGES)
    best = torch.load(whole / "checkpoints" / "best.ckpt", weights_only=True)
    state, trained = best["state_dict"], best["current_model_state"]
    assert any(not torch.equal(value, trained[key]) for key, value in state.items() if value.is_floating_point())
    opened = open_pretrained(str(whole / "checkpoints" / "best.ckpt")).model.state_dict()
    assert all(torch.equal(value, state[f"model.{key}"]) for key, value in opened.items())
    scores = logged(whole, ("val/loss", "val/dsc_slice256/macro"))
    losses = scores["val/loss"]
    chosen = min(losses, key=lambda step: losses[step])
    assert best["global_step"] == chosen + 1
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["trained"]["macro"]["dsc"] == pytest.approx(scores["val/dsc_slice256/macro"][chosen], rel=1e-6)


def test_settings_that_would_lose_the_average_are_refused(runs: Runs) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"callbacks\.averaging\.decay is 1\.0; required: from 0 to below 1"):
        AveragedWeights(decay=1.0)
    assert isinstance(build({"_target_": "graysam.training.averaging.AveragedWeights", "decay": 0.9}), AveragedWeights)
    with pytest.raises(ValueError, match=r"save_weights_only=false: use callbacks=ema"):
        run(runs.config(*CHANGES, "callbacks.checkpoint.save_weights_only=true"))
    with pytest.raises(ValueError, match=r"scheduler\.total_steps=-1 with scheduler\.warmup_steps=3 is not the number"):
        run(runs.config(*EMA))
