"""A run that is stopped anywhere and resumed computes what a run never stopped computes."""

import errno
import json
import logging
import os
import resource
import shutil
import signal
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from graysam.config.targets import build
from graysam.training.checkpoints import BestCheckpoint, ResumePoints, WholeFileIO, damage
from graysam.training.module import SamModule
from graysam.training.run import run_training
from graysam.training.run_directory import RunDirectory
from tests.scripts.kill_moments import main as kill_at_five_moments
from tests.support.config import compose_plain
from tests.support.tiny import overrides
from tests.support.training import logged, logged_in, run

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# Five steps an epoch, three epochs; the rate falls after every validation that is not a best one.
COMMON = (
    "data.samples_per_group=10",
    "trainer.max_epochs=3",
    "callbacks.resume.every_steps=2",
    "callbacks.progress=null",
)
PLATEAU = ("scheduler.patience=0", "scheduler.factor=0.5")
COLUMNS = ("train/loss", "train/loss_epoch", "val/loss", "val/dsc_slice256/macro", "lr-AdamW")
slow = partial(pytest.param, marks=pytest.mark.slow)


class Killed(BaseException):
    """Ends a process at once, as far as its files are concerned."""


def die(trainer: lightning.Trainer) -> None:
    raise Killed


class DoAt(Callback):
    """Does something the n-th time that a hook of this name is called."""

    def __init__(self, hook: str, count: int, action: Callable[[lightning.Trainer], object]) -> None:
        self.left, self.action = count, action
        setattr(self, hook, self._called)

    def _called(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        self.left -= 1
        if self.left == 0:
            self.action(trainer)


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


class Runs:
    """Configs for one test's run, and the run never stopped that it is compared with."""

    whole: ClassVar[dict[tuple[str, ...], Path]] = {}

    def __init__(self, shards: Path, folder: Path, factory: pytest.TempPathFactory) -> None:
        self.shards, self.run_dir, self.factory = shards, folder / "run", factory
        self.checkpoints = self.run_dir / "checkpoints"

    def config(self, *more: str, run_dir: Path | None = None) -> dict[str, Any]:
        plateau = () if any(change.startswith("scheduler=") for change in more) else PLATEAU
        return compose_plain("train", [*overrides(self.shards, run_dir or self.run_dir), *COMMON, *plateau, *more])

    def never_stopped(self, *more: str) -> Path:
        if more not in self.whole:
            run_dir = self.factory.mktemp("whole") / "run"
            with warnings.catch_warnings(action="ignore"):
                assert run(self.config(*more, run_dir=run_dir)) == 0
            self.whole[more] = run_dir
        return self.whole[more]

    def assert_same(self, *more: str) -> None:
        """Compare every logged number and the last weights with those of the run never stopped, bit for bit."""
        pair = self.never_stopped(*more), self.run_dir
        expected, got = (logged(path, COLUMNS) for path in pair)
        assert len(expected["train/loss"]) > 5
        assert got == expected
        states = [torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in pair]
        for key, value in states[0]["state_dict"].items():
            assert torch.equal(value, states[1]["state_dict"][key]), key
        assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
        trained = [json.loads((path / "summary.json").read_text())["trained"] for path in pair]
        assert trained[0] == trained[1]


@pytest.fixture
def runs(toy_shards: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(toy_shards, tmp_path, tmp_path_factory)


MAX_STEPS = ("trainer.max_steps=13", "trainer.max_epochs=-1")
EVERY_SECOND = ("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4")


@pytest.mark.parametrize(
    ("hook", "count", "changes"),
    [
        slow("on_train_batch_start", 1, ()),
        ("on_train_batch_end", 3, ()),
        slow("on_before_zero_grad", 8, ()),
        slow("on_train_batch_end", 10, ()),
        slow("on_validation_start", 2, ()),
        ("on_validation_batch_end", 1, ()),
        slow("on_validation_end", 2, ()),
        slow("on_train_epoch_end", 3, ()),
        slow("on_train_epoch_start", 2, ()),
        slow("on_train_end", 1, ()),
        ("on_train_batch_end", 8, ("scheduler_monitor=train/loss_epoch",)),
        slow("on_train_batch_end", 9, ("scheduler=cosine",)),
        slow("on_train_batch_end", 8, ("data.num_workers=2", "scheduler=none")),
        slow("on_train_batch_end", 8, ("trainer.accumulate_grad_batches=2",)),
        slow("on_train_batch_end", 9, ("trainer.val_check_interval=0.4",)),
        slow("on_validation_batch_end", 6, ("trainer.val_check_interval=0.4",)),
        slow("on_train_batch_end", 18, EVERY_SECOND),
        slow("on_train_epoch_start", 2, EVERY_SECOND),
        slow("on_train_batch_end", 12, MAX_STEPS),
        slow("on_train_epoch_start", 3, MAX_STEPS),
        slow("on_validation_batch_end", 2, MAX_STEPS),
        slow(
            "on_train_batch_end",
            8,
            ("data.boxes_per_image=2", "data.with_replacement=true", "frozen=[image_encoder.backbone]"),
        ),
    ],
)
def test_killed_anywhere(runs: Runs, hook: str, count: int, changes: tuple[str, ...]) -> None:
    given = runs.config(*changes)
    run_and_kill(given, hook, count)
    assert run(given) == 0
    runs.assert_same(*changes)


@pytest.mark.parametrize(
    ("number", "code", "hook", "count"),
    [
        (signal.SIGTERM, 143, "on_train_batch_start", 8),
        (signal.SIGINT, 130, "on_validation_batch_start", 2),
        slow(signal.SIGTERM, 143, "on_train_epoch_end", 2),
    ],
)
def test_a_signal_stores_first(
    runs: Runs, capsys: pytest.CaptureFixture[str], number: int, code: int, hook: str, count: int
) -> None:
    """Nothing is computed twice: the first step after it is the one that was next."""
    given = runs.config("callbacks.resume.every_steps=null")
    runs.never_stopped()
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert run_with(given, DoAt(hook, count, lambda _: os.kill(os.getpid(), number))) == code
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    printed = capsys.readouterr().err
    assert f"stopped by {signal.Signals(number).name}: step " in printed
    assert "the same command resumes the run" in printed
    stored = torch.load(runs.checkpoints / "last.ckpt", weights_only=True)["global_step"]
    assert max(logged_in(runs.run_dir / "metrics" / "version_0")["train/loss"]) == stored - 1
    assert run(given) == 0
    assert min(logged_in(runs.run_dir / "metrics" / "version_1").get("train/loss", {})) == stored
    runs.assert_same()


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    given = runs.config()
    run_and_kill(given, "on_train_batch_end", 10)
    last = runs.checkpoints / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # a single bit
    last.write_bytes(content)
    caplog.set_level(logging.INFO)
    assert run(given) == 0
    assert "last.ckpt is damaged" in caplog.text
    assert "resuming from" in caplog.text
    runs.assert_same()


def test_damage_is_detected_and_a_run_without_intact_checkpoint_refused(runs: Runs) -> None:
    directory = RunDirectory(runs.run_dir, {})
    runs.checkpoints.mkdir(parents=True)
    last, previous = runs.checkpoints / "last.ckpt", runs.checkpoints / "previous.ckpt"
    torch.save({"weight": torch.zeros(1000)}, last)
    assert damage(last) is None
    whole = last.read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2], b"", b"nonsense"):
        last.write_bytes(content)
        assert damage(last)
    previous.write_bytes(b"nonsense")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no checkpoint in .* is intact; delete .* to start again"):
            directory.find_last_checkpoint()
    previous.write_bytes(whole)  # a process killed between two renames leaves it without last.ckpt
    assert directory.find_last_checkpoint() == previous


def test_killed_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = tmp_path / "last.ckpt", {"weight": torch.zeros(1000)}
    WholeFileIO().save_checkpoint(content, path)
    before = path.read_bytes()

    def kill(number: int) -> None:
        os.truncate(number, 1000)  # so much of it had reached the disk
        raise Killed

    monkeypatch.setattr(os, "fsync", kill)
    with pytest.raises(Killed):
        WholeFileIO().save_checkpoint(content, path)
    assert path.read_bytes() == before


def test_a_full_disk_ends_with_one_line_and_the_last_good_state(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """The system refuses to write beyond a size, as a full disk does."""
    given = runs.config()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        full = DoAt("on_train_batch_end", 4, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, before[1])))
        assert run_with(given, full) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = "could not be written: File too large; make room; the stored checkpoints are kept, and the same command "
    assert f"{error}resumes from them" in capsys.readouterr().err
    assert [path.name for path in runs.checkpoints.iterdir()] == ["last.ckpt"]
    assert damage(runs.checkpoints / "last.ckpt") is None
    assert run(given) == 0
    runs.assert_same()


def test_a_dying_worker_ends_with_one_line(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    def kill_worker(trainer: lightning.Trainer) -> None:
        (worker,) = trainer.train_dataloader._iterator._workers
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    assert run_with(runs.config("data.num_workers=1"), DoAt("on_train_batch_start", 4, kill_worker)) == 1
    assert "error: a DataLoader worker died" in capsys.readouterr().err
    assert run(runs.config()) == 0  # their number may differ when a run is resumed
    runs.assert_same()


def test_a_moved_run_keeps_its_best_score(tmp_path: Path) -> None:
    here, there = (BestCheckpoint(dirpath=tmp_path / name, monitor="val/loss") for name in ("here", "there"))
    here.best_model_path, here.best_model_score = f"{here.dirpath}/best.ckpt", torch.tensor(0.5)
    here.best_k_models = {here.best_model_path: here.best_model_score}
    there.load_state_dict(here.state_dict())
    assert there.best_model_path == f"{there.dirpath}/best.ckpt"
    assert there.best_k_models == {there.best_model_path: there.best_model_score} == {there.best_model_path: 0.5}


def test_limits_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"callbacks\.resume\.every_steps is 0; required: above 0, or null"):
        ResumePoints(dirpath="x", every_minutes=1, every_steps=0)


def test_a_run_records_its_origin_and_is_not_resumed_with_other_shards(runs: Runs, tmp_path: Path) -> None:
    runs.shards = Path(shutil.copytree(runs.shards, tmp_path / "shards"))
    given = runs.config("trainer.max_epochs=1", "data.samples_per_group=4")
    run_and_kill(given, "on_train_batch_end", 1)
    first = json.loads((runs.run_dir / "run.json").read_text())
    manifest = runs.shards / "manifest.json"
    original = manifest.read_text()
    manifest.write_text(original.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ValueError, match="was started with other shards"):
        run(given)
    manifest.write_text(original)
    assert run(given) == 0
    second = json.loads((runs.run_dir / "run.json").read_text())
    assert (len(first["starts"]), len(second["starts"])) == (1, 2)
    assert {**first, "starts": None} == {**second, "starts": None}
    assert len(first["id"]) == 8
    assert first["versions"]["torch"]
    assert [len(shards["manifest_sha256"]) for shards in first["shards"]] == [64]
    assert first["machine"]["cores"] >= 1
    assert first["git"] is None or len(first["git"]["commit"]) == 40


@pytest.mark.slow
def test_sigkill_of_the_real_command(runs: Runs, tmp_path: Path) -> None:
    settings = [*overrides(runs.shards, Path("given by the script")), *COMMON, *PLATEAU, "trainer.max_epochs=6"]
    kept = [x for x in settings if not x.startswith(("run_dir=", "callbacks.progress", "callbacks.resume"))]
    kills = kill_at_five_moments([str(tmp_path), *kept])
    assert len(kills) == 5
    for kill in kills:
        assert (kill.loss_before, kill.loss_after) == pytest.approx(kill.expected, rel=0, abs=0, nan_ok=True)


def test_two_processes_do_not_share_a_run(runs: Runs) -> None:
    given = runs.config("trainer.max_epochs=1")
    refusal = pytest.raises(ValueError, match=r"another process is at work in .*run; wait for it")
    with RunDirectory(runs.run_dir, given).lock(), refusal:
        run(given)
    with RunDirectory(runs.run_dir, given).lock():  # free again
        pass


def fail_with(number: int) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES, errno.EIO])
def test_without_file_locks_a_run_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    fcntl = pytest.importorskip("fcntl")
    directory = RunDirectory(tmp_path / "run", {})
    with directory.lock():  # leaves a file, which must not look like a lock afterwards
        pass
    monkeypatch.setattr(fcntl, "flock", fail_with(number))
    if number == errno.EACCES:  # some file systems' way to say that another process holds it
        with pytest.raises(ValueError, match="another process is at work"):
            directory.lock()
    elif number == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            directory.lock()
    else:
        with directory.lock(), directory.lock():
            warning = f"no lock is possible in {tmp_path / 'run'}; do not start it twice"
            assert caplog.messages == [warning, warning]
            return
    assert caplog.messages == []


def test_a_folder_that_may_not_be_written_keeps_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory(tmp_path / "run", {})
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("filelock._native._unix.os.open", fail_with(errno.EPERM))
    with pytest.raises(PermissionError, match="Operation not permitted"):
        directory.lock()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOSPC])
def test_a_checkpoint_is_stored_where_nothing_can_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(number))
    full = pytest.raises(OSError, match="could not be written: No space left")
    with full if number == errno.ENOSPC else nullcontext():
        WholeFileIO().save_checkpoint({"a": 1}, tmp_path / "x.ckpt")
    assert (tmp_path / "x.ckpt").is_file() == (number != errno.ENOSPC)


def test_a_run_without_training_keeps_its_start_and_compares_methods_later(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained = ("trainer.max_epochs=0", "compare=true")
    assert run(runs.config(*untrained)) == 0
    summary = json.loads((runs.run_dir / "summary.json").read_text())
    assert summary["trained"] == summary["start"]
    assert not (runs.run_dir / "quantization.json").exists()
    later = runs.config(
        *untrained, "quantize=default", "quantize.methods=[none]", "quantize.repeats=1", "quantize.warmup=0",
        "quantize.timing_images=1",
    )  # fmt: skip
    assert run(later) == 0
    assert "is finished" in capsys.readouterr().out
    assert set(json.loads((runs.run_dir / "quantization.json").read_text())["methods"]) == {"none"}


def test_ctrl_c_while_the_model_is_scored_ends_the_run_as_in_training(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    given = compose_plain("train", overrides(toy_shards, tmp_path / "run", "compare=true"))
    monkeypatch.setattr(SamModule, "validation_step", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert run(given) == 130
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further signals
    assert "stopped by SIGINT; the same command resumes the run" in capsys.readouterr().err
