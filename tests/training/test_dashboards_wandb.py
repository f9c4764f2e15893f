"""The W&B logger by itself: one run under one id, parts that join, and when it goes online."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb

from graysam.training.loggers import RunWandbLogger, wandb_mode
from tests.support.wandb_files import read, without_account

KEY = "0" * 40


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run without account and network, and leave no background process."""
    folder = tmp_path_factory.mktemp("home")
    with without_account(folder):
        yield folder


@pytest.fixture
def fresh_settings(home: Path) -> Iterator[None]:
    """Let wandb read the environment anew, before and after."""
    wandb.teardown()
    yield
    wandb.teardown()
    (home / "netrc").unlink(missing_ok=True)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a directory with what the logger reads of a run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"id": "0123abcd", "name": "toy", "seed": 0}))
    (tmp_path / "run" / "config.json").write_text(json.dumps({"optimizer": {"lr": 0.1}}))
    return tmp_path / "run"


def logger(run_dir: Path) -> RunWandbLogger:
    return RunWandbLogger(run_dir=run_dir, project="graysam", entity=None, finish_timeout=60)


def test_a_resumed_run_has_the_same_id_and_one_command_uploads_its_parts(
    run_dir: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = run_dir / "wandb" / "offline-run-20240101_000000-0123abcd" / "run-0123abcd.wandb"
    empty.parent.mkdir(parents=True)
    empty.write_bytes(b":W&B\xe1\xbe\x00")  # of a killed start; `wandb sync` would stop at it
    for steps, failed, tables in ((range(0, 5), True, None), (range(3, 8), False, "a user's own folder")):
        if tables:
            monkeypatch.setenv("WANDB_DATA_DIR", tables)
        part = logger(run_dir)
        for step in steps:
            part.log_metrics({"train/loss": 1.0 / (step + 1)}, step=step)
        part.finish(failed=failed)
        time.sleep(1)  # wandb names a part by the second of its start
        assert os.environ.get("WANDB_DATA_DIR") == tables
    first, second = read(run_dir)
    assert first.id == second.id == "0123abcd"
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.rows[4]["train/loss"] == second.rows[4]["train/loss"] == 0.2
    assert set(first.rows) | set(second.rows) == set(range(8))
    assert "".join(capfd.readouterr()) == ""  # wandb keeps quiet
    assert not empty.parent.exists()
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(run_dir / "wandb")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Would sync 2 run(s)" in done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no table of accounts")
def test_a_user_without_a_home_writes_below_the_run(
    run_dir: Path, fresh_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: object) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "USER", "LOGNAME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    part = logger(run_dir)
    part.log_metrics({"train/loss": 1.0}, step=0)
    part.finish(failed=False)
    assert "HOME" not in os.environ
    (stored,) = read(run_dir)
    assert stored.rows[0]["train/loss"] == 1.0


@pytest.mark.parametrize(
    ("environment", "netrc", "mode"),
    [
        ({}, "", "offline"),
        ({"WANDB_API_KEY": KEY}, "", "online"),
        ({}, f"machine 127.0.0.1 login user password {KEY}\n", "online"),
        ({}, f"machine elsewhere login user password {KEY}\n", "offline"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "", "offline"),
        ({"WANDB_MODE": "disabled"}, "", "disabled"),
    ],
)
@pytest.mark.usefixtures("fresh_settings")
def test_online_only_where_there_is_a_key_and_nothing_forbids_it(
    environment: dict[str, str], netrc: str, mode: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (home / "netrc").write_text(netrc)
    (home / "netrc").chmod(0o600)
    assert wandb_mode() == mode


def test_an_invalid_key_is_one_line(run_dir: Path, fresh_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ValueError, match="WANDB_MODE=offline keeps the run on this machine") as error:
        logger(run_dir).log_metrics({"x": 1.0}, step=0)
    assert "\n" not in str(error.value)
