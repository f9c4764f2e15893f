"""A run that is stopped anywhere and begun again computes what a run never stopped computes."""

import json
import logging
import os
import resource
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from graysam.config.building import build
from graysam.config.composing import compose_plain
from graysam.training.checkpoints import BestCheckpoint, damage
from graysam.training.resume import ResumePoints
from graysam.training.run import run_training
from graysam.training.run_directory import RunDirectory
from tests.scripts.kill_moments import main as kill_at_five_moments
from tests.support.lightning_warnings import LIGHTNING_WARNINGS, OWN_CHECKPOINTS
from tests.support.metrics_files import logged, logged_in
from tests.support.tiny import overrides
from tests.support.training import run

pytestmark = pytest.mark.filterwarnings(
    *LIGHTNING_WARNINGS, OWN_CHECKPOINTS, "ignore:This process .* is multi-threaded:DeprecationWarning"
)

# Five steps an epoch, three epochs; the rate falls after every validation that is not a best one.
COMMON = (
    "data.samples_per_group=10",
    "trainer.max_epochs=3",
    "callbacks.resume.every_steps=2",
    "callbacks.progress=null",
)
slow = partial(pytest.param, marks=pytest.mark.slow)
PLATEAU = ("scheduler.patience=0", "scheduler.factor=0.5")


class Killed(BaseException):
    """What ends a process at once, as far as its files are concerned."""


def die(trainer: lightning.Trainer) -> None:
    raise Killed


class DoAt(Callback):
    """Does something the n-th time that a hook of this name is called."""

    def __init__(self, hook: str, count: int, action: Callable[[lightning.Trainer], None]) -> None:
        self.left, self.action = count, action
        setattr(self, hook, self._called)

    def _called(self, trainer: lightning.Trainer, *arguments: Any, **named: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.action(trainer)


def config(shards: Path, run_dir: Path, *more: str) -> dict[str, Any]:
    plateau = () if any(change.startswith("scheduler=") for change in more) else PLATEAU
    return compose_plain("train", [*overrides(shards, run_dir), *COMMON, *plateau, *more])


def run_with(given: dict[str, Any], callback: Callback) -> int:
    """Run with one more callback, which is called before all others."""

    def build_with(part: dict[str, Any], **arguments: Any) -> Any:
        if "callbacks" in arguments:
            arguments["callbacks"].insert(0, callback)
        return build(part, **arguments)

    return run_training(given, build_with)


def run_and_kill(given: dict[str, Any], hook: str, count: int) -> None:
    with pytest.raises(Killed):
        run_with(given, DoAt(hook, count, die))


COLUMNS = ("train/loss", "train/loss_epoch", "val/loss", "val/dsc_slice256/macro", "lr-AdamW")


def assert_same_run(one: Path, other: Path) -> None:
    """Hold every logged number and the last weights of one run against another's, bit for bit."""
    expected, got = logged(one, COLUMNS), logged(other, COLUMNS)
    assert len(expected["train/loss"]) > 5
    for name in COLUMNS:
        assert got[name] == expected[name], name
    states = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (one, other)]
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
    best = [json.loads((path / "summary.json").read_text())["trained"] for path in (one, other)]
    assert best[0] == best[1]


@pytest.fixture(scope="module")
def never_stopped(toy_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a function that gives the directory of an uninterrupted run with some overrides."""
    done: dict[tuple[str, ...], Path] = {}

    def get(*more: str) -> Path:
        if more not in done:
            run_dir = tmp_path_factory.mktemp("whole") / "run"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert run(config(toy_shards, run_dir, *more)) == 0
            done[more] = run_dir
        return done[more]

    yield get


@pytest.mark.parametrize(
    ("hook", "count"),
    [
        slow("on_train_batch_start", 1),
        slow("on_train_batch_end", 2),
        ("on_train_batch_end", 3),
        slow("on_before_zero_grad", 8),
        slow("on_train_batch_end", 10),
        slow("on_validation_start", 2),
        ("on_validation_batch_end", 1),
        slow("on_validation_end", 2),
        slow("on_train_epoch_end", 1),
        slow("on_train_epoch_end", 3),
        slow("on_train_epoch_start", 2),
        slow("on_train_end", 1),
    ],
)
def test_killed_anywhere(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_stopped: Any, hook: str, count: int
) -> None:
    given = config(toy_shards, tmp_path / "run")
    run_and_kill(given, hook, count)
    assert run(given) == 0
    assert_same_run(never_stopped(), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "hook", "count"),
    [
        (("scheduler_monitor=train/loss_epoch",), "on_train_batch_end", 8),
        slow(("scheduler=cosine",), "on_train_batch_end", 9),
        slow(("data.num_workers=2", "scheduler=none"), "on_train_batch_end", 8),
        slow(("trainer.accumulate_grad_batches=2",), "on_train_batch_end", 8),
        slow(("trainer.val_check_interval=0.4",), "on_train_batch_end", 9),
        slow(("trainer.val_check_interval=0.4",), "on_validation_batch_end", 6),
        slow(("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"), "on_train_batch_end", 18),
        slow(("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"), "on_train_epoch_start", 2),
        slow(("trainer.max_steps=13", "trainer.max_epochs=-1"), "on_train_batch_end", 12),
        slow(("trainer.max_steps=13", "trainer.max_epochs=-1"), "on_train_epoch_start", 3),
        slow(("trainer.max_steps=13", "trainer.max_epochs=-1"), "on_validation_batch_end", 2),
        slow(
            ("data.boxes_per_image=2", "data.with_replacement=true", "frozen=[image_encoder.backbone]"),
            "on_train_batch_end",
            8,
        ),
    ],
)
def test_killed_in_other_kinds_of_runs(
    toy_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    never_stopped: Any,
    changes: tuple[str, ...],
    hook: str,
    count: int,
) -> None:
    given = config(toy_shards, tmp_path / "run", *changes)
    run_and_kill(given, hook, count)
    assert run(given) == 0
    assert_same_run(never_stopped(*changes), tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "code", "hook", "count"),
    [
        (signal.SIGTERM, 143, "on_train_batch_start", 8),
        (signal.SIGINT, 130, "on_validation_batch_start", 2),
        slow(signal.SIGTERM, 143, "on_train_epoch_end", 2),
    ],
)
def test_a_signal_stores_first(
    toy_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    never_stopped: Any,
    number: int,
    code: int,
    hook: str,
    count: int,
) -> None:
    """Nothing is computed twice: the first step after it is the one that was next."""
    given = config(toy_shards, tmp_path / "run", "callbacks.resume.every_steps=null")
    whole = never_stopped()
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert run_with(given, DoAt(hook, count, lambda _: os.kill(os.getpid(), number))) == code
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    said = capsys.readouterr().err
    assert f"stopped by {signal.Signals(number).name}: step " in said
    assert "the same command resumes the run" in said
    stored = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    first = logged_in(tmp_path / "run" / "metrics" / "version_0")["train/loss"]
    assert max(first) == stored - 1
    assert run(given) == 0
    again = logged_in(tmp_path / "run" / "metrics" / "version_1").get("train/loss", {})
    assert min(again) == stored
    assert_same_run(whole, tmp_path / "run")


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    toy_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    never_stopped: Any,
) -> None:
    given = config(toy_shards, tmp_path / "run")
    run_and_kill(given, "on_train_batch_end", 10)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # a single bit
    last.write_bytes(content)
    caplog.set_level(logging.INFO)
    assert run(given) == 0
    assert "last.ckpt is damaged" in caplog.text
    assert "resuming from" in caplog.text
    assert_same_run(never_stopped(), tmp_path / "run")


def test_damage_is_told_apart_and_nothing_whole_is_refused(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(toy_shards, tmp_path / "run", "trainer.max_epochs=1")
    run_and_kill(given, "on_train_batch_end", 5)
    folder = tmp_path / "run" / "checkpoints"
    assert damage(folder / "last.ckpt") is None
    whole = (folder / "last.ckpt").read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2], b"", b"nonsense"):
        (folder / "last.ckpt").write_bytes(content)
        assert damage(folder / "last.ckpt")
    (folder / "previous.ckpt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is intact; delete .* to start again"):
        run(given)
    (folder / "last.ckpt").unlink()
    (folder / "previous.ckpt").write_bytes(whole)  # a process killed between two renames leaves this
    assert RunDirectory(tmp_path / "run", given).find_last_checkpoint() == folder / "previous.ckpt"


def test_killed_while_a_checkpoint_is_written(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_stopped: Any
) -> None:
    given = config(toy_shards, tmp_path / "run")
    save, calls = os.fsync, []

    def killed_at_the_fourth(number: int) -> None:
        calls.append(number)
        if len(calls) == 4:
            os.truncate(number, 1000)  # so much of it had reached the disk
            raise Killed
        save(number)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, "fsync", killed_at_the_fourth)
        run(given)
    assert damage(tmp_path / "run" / "checkpoints" / "last.ckpt") is None
    assert run(given) == 0
    assert_same_run(never_stopped(), tmp_path / "run")


def test_a_full_disk_ends_with_one_line_and_the_last_good_state(
    toy_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    never_stopped: Any,
) -> None:
    """The system refuses to write beyond a size, as a full disk does."""
    given = config(toy_shards, tmp_path / "run")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        full = DoAt("on_train_batch_end", 4, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1])))
        assert run_with(given, full) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "could not be written: File too large" in line
    assert "make room and give the same command again" in line
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert damage(folder / "last.ckpt") is None
    assert run(given) == 0
    assert_same_run(never_stopped(), tmp_path / "run")


def test_a_dying_worker_ends_with_one_line(
    toy_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    never_stopped: Any,
) -> None:
    given = config(toy_shards, tmp_path / "run", "data.num_workers=1")

    def kill_worker(trainer: lightning.Trainer) -> None:
        (worker,) = trainer.train_dataloader._iterator._workers
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    assert run_with(given, DoAt("on_train_batch_start", 4, kill_worker)) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "a DataLoader worker died" in line
    assert "data.num_workers" in line
    assert run({**given, "data": {**given["data"], "num_workers": 0}}) == 0  # it may differ when a run goes on
    assert_same_run(never_stopped(), tmp_path / "run")


def test_a_moved_run_keeps_its_best_score(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_stopped: Any
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    given = config(toy_shards, Path("run"))
    run_and_kill(given, "on_train_batch_end", 8)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    best: list[float] = []

    def note_best(trainer: lightning.Trainer) -> None:
        (checkpoint,) = [one for one in trainer.callbacks if isinstance(one, BestCheckpoint)]
        best.append(float(checkpoint.best_model_score or 0))

    assert run_with(given, DoAt("on_train_start", 1, note_best)) == 0
    whole = logged(never_stopped(), ("val/loss",))["val/loss"]
    assert best == [pytest.approx(min(value for step, value in whole.items() if step < 8), rel=1e-6)]
    assert_same_run(never_stopped(), tmp_path / "there" / "run")


def test_limits_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"callbacks\.resume\.every_steps is 0; required: above 0, or null"):
        ResumePoints(dirpath="x", every_minutes=1, every_steps=0)


def test_a_run_says_where_it_comes_from(toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = config(toy_shards, tmp_path / "run", "trainer.max_epochs=1", "data.samples_per_group=4")
    run_and_kill(given, "on_train_batch_end", 1)
    first = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run(given) == 0
    second = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(first["starts"]), len(second["starts"]) == (1, 2)
    assert {**first, "starts": None} == {**second, "starts": None}
    assert len(first["id"]) == 8
    assert first["versions"]["torch"] == torch.__version__.split("+")[0] or first["versions"]["torch"]
    assert [len(shards["manifest_sha256"]) for shards in first["shards"]] == [64]
    assert first["machine"]["cores"] >= 1
    assert first["git"] is None or len(first["git"]["commit"]) == 40


def test_no_training_scores_the_start(toy_shards: Path, tmp_path: Path) -> None:
    given = config(toy_shards, tmp_path / "run", "trainer.max_epochs=0", "compare=true")
    assert run(given) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["trained"] == summary["start"]


@pytest.mark.slow
def test_sigkill_of_the_real_command(toy_shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "unused"  # kill_moments gives its own
    settings = [*overrides(toy_shards, run_dir), *COMMON, *PLATEAU, "trainer.max_epochs=6"]
    kept = [x for x in settings if not x.startswith(("run_dir=", "callbacks.progress", "callbacks.resume"))]
    kills = kill_at_five_moments([str(tmp_path), *kept])
    assert len(kills) == 5
    for kill in kills:
        assert (kill.loss_before, kill.loss_after) == pytest.approx(kill.expected, rel=0, abs=0, nan_ok=True)


def test_two_processes_do_not_share_a_run(toy_shards: Path, tmp_path: Path) -> None:
    given = config(toy_shards, tmp_path / "run", "trainer.max_epochs=1")
    other = RunDirectory(tmp_path / "run", given)
    with other.lock(), pytest.raises(ValueError, match=r"another process is at work in .*run; wait for it"):
        run(given)
    assert run(given) == 0


def test_a_run_does_not_go_on_with_other_shards(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(toy_shards, shards)
    given = config(shards, tmp_path / "run", "trainer.max_epochs=1")
    run_and_kill(given, "on_train_batch_end", 3)
    manifest = shards / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match="was started with other shards"):
        run(given)


def test_what_a_kill_left_before_the_config_was_stored_is_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", ".config.json.0123.tmp"):
        (tmp_path / "run" / name).touch()
    RunDirectory(tmp_path / "run", {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("monitor=val/dsc_slice256/macro",), "monitor val/dsc_slice256/macro needs monitor_mode=max; it is min"),
        (("scheduler_monitor=train/loss",), "scheduler_monitor train/loss is not logged; logged are val/loss"),
        (("monitor=val/los",), "monitor val/los is not logged"),
        (("name=a/../../b",), "leads out of the runs' folder"),
    ],
)
def test_what_is_watched_exists_and_has_a_direction(
    toy_shards: Path, tmp_path: Path, changes: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        run(config(toy_shards, tmp_path / "run", *changes))
    assert not (tmp_path / "run").exists()


def test_a_finished_run_measures_kinds_that_are_asked_for_later(
    toy_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = config(toy_shards, tmp_path / "run", "trainer.max_epochs=0")
    assert run(given) == 0
    assert not (tmp_path / "run" / "benchmark.json").exists()
    later = config(
        toy_shards, tmp_path / "run", "trainer.max_epochs=0", "quantize=default", "quantize.kinds=[none]",
        "quantize.repeats=1", "quantize.warmup=0", "quantize.timing_images=1",
    )  # fmt: skip
    assert run(later) == 0
    assert "is finished" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "run" / "benchmark.json").read_text())["kinds"]) == {"none"}
