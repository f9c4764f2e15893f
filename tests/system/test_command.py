"""Former options, and input that cannot be used, end in one line and exit code 2."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from graysam.system.command import RENAMED_COMMANDS, RENAMED_KEYS, RENAMED_OPTIONS, command


def test_a_former_option_names_its_successor(capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[Sequence[str] | None] = []

    @command("predict")
    def main(argv: Sequence[str] | None) -> int:
        ran.append(argv)
        return 1

    assert main(["-i", "--backend", "x"]) == 1
    for given in ("--runtime torch", "--runtime=torch", "-i x --runtime"):
        assert main(given.split()) == 2
        assert capsys.readouterr().err == "error: --runtime has been renamed; use --backend\n"
    assert len(ran) == 1


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError("two  \x1b[1;31mlines\x1b[0m\x07")])
def test_unusable_input_ends_in_one_line(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    @command("train")
    def main(argv: Sequence[str] | None) -> int:
        raise error

    assert main([]) == 2
    assert capsys.readouterr().err == "error: two lines\n"


def test_a_tilde_after_an_options_equals_sign_means_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Sequence[str] | None] = []

    @command("predict")
    def main(argv: Sequence[str] | None) -> int:
        ran.append(argv)
        return 0

    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    given = ["--output=~/x", "--output=~", "--reference=~x", "~/x", "a=~/x", "--a"]
    monkeypatch.setattr(sys, "argv", ["predict", *given])
    assert main(given) == main() == 0
    assert ran == 2 * [[f"--output={tmp_path / 'x'}", f"--output={tmp_path}", *given[2:]]]
    assert sys.argv[1:] == ran[0]


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    @command("train")
    def main(argv: Sequence[str] | None) -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        main([])


def test_the_changelog_lists_every_former_name() -> None:
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    lines = text.replace("`", "").replace("\\|", "|").splitlines()
    for names in (*RENAMED_OPTIONS.values(), RENAMED_KEYS, RENAMED_COMMANDS):
        for former, now in names.items():
            cell = f"| {former.replace('/', '=')} |"  # a group's choice is given as GROUP=CHOICE
            assert [line for line in lines if line.startswith("|") and cell in line and now in line], former
