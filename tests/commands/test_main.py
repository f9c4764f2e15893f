"""`graysam NAME` and `python -m graysam NAME` run the same commands."""

import subprocess
import sys
from pathlib import Path

import pytest

import graysam
from graysam.__main__ import COMMANDS, main


def test_without_arguments_the_commands_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["graysam"])
    assert main() == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]} == set(COMMANDS)
    modules = {path.stem for path in Path(graysam.__file__).parent.glob("[a-z]*.py")}
    assert modules == set(COMMANDS)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("findings", "it was renamed to graysam report --reproducibility-checks"),
        ("workspace", "it was renamed to graysam report --wandb-workspace"),
        ("tarin", "did you mean 'train'?"),
        ("xyz", "commands are pack, train"),
    ],
)
def test_other_names_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, error: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["graysam", name, "-o", "x"])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert error in line


def test_a_command_gets_its_arguments() -> None:
    command = [sys.executable, "-m", "graysam", "evaluate", "--help"]
    assert "--segs" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
