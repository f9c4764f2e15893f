"""README and docs: commands, options, paths and links that they name exist, and the first tutorial runs as printed."""

import argparse
import csv
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from graysam.__main__ import COMMANDS
from graysam.config.composing import compose_config
from graysam.system.environment import conf_dir

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("[a-z]*/README.md")]
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FIRST_VALUE = re.compile(r"=(\[[^]]*\]|[^,'\"[({]+),.*")  # of several
NAMES = sorted(str(path.relative_to(ROOT)) for path in DOCUMENTS)


class ParserFoundError(Exception):
    """Carries the parser of a command that was started."""


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command; Hydra's for train and pack."""

    def found(self: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise ParserFoundError(self)

    parsers = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", found)
        for name in COMMANDS:
            with pytest.raises(ParserFoundError) as caught:
                importlib.import_module(f"graysam.{name}").main()
            parsers[name] = caught.value.args[0]
    return parsers


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield name and arguments of graysam's commands in the shell blocks of a text."""
    for language, block in BLOCKS.findall(text):
        for line in block.replace("\\\n", " ").splitlines() if language == "bash" else ():
            for words in (shlex.split(part, comments=True) for part in line.split("&&")):
                if words[:1] == ["graysam"]:
                    yield words[1], words[2:]
                for place, word in enumerate(words):
                    if word.startswith("graysam.") and words[place - 1] == "-m":
                        yield word.removeprefix("graysam."), words[place + 1 :]


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_accepted(name: str, parsers: dict[str, argparse.ArgumentParser]) -> None:
    for command, arguments in commands((ROOT / name).read_text()):
        assert command in COMMANDS
        try:
            parsed = parsers[command].parse_args(arguments)
        except SystemExit:
            pytest.fail(f"graysam {command} {shlex.join(arguments)}")
        if command in ("train", "pack"):
            first = [FIRST_VALUE.sub(r"=\1", override) for override in parsed.overrides]
            assert parsed.multirun or first == parsed.overrides, "several values without -m"
            compose_config(command, first, conf_dir())  # graysam check validates the files themselves


@pytest.mark.parametrize("name", NAMES)
def test_options_and_paths_exist(name: str, parsers: dict[str, argparse.ArgumentParser]) -> None:
    options = {option for parser in parsers.values() for option in parser._option_string_actions}
    spans = re.findall(r"`([^`\n]+)`", BLOCKS.sub("", (ROOT / name).read_text()))
    assert {span.split()[0] for span in spans if span.startswith("--")} <= options
    paths = filter(re.compile(r"(graysam|conf|tests|docs|container|examples)/[\w./*=-]+$").match, spans)
    absent = [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]
    assert [path for path in absent if "my_" not in path] == [], "my_* are files that the reader writes"


def test_the_readme_is_short_and_its_links_exist() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []


def test_the_first_tutorial_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_cache: Path) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for language, block in BLOCKS.findall((ROOT / "docs/tutorials/first-mask.md").read_text()):
        if language == "python":
            exec(block, namespace)
        for command, arguments in commands(f"```{language}\n{block}```"):
            assert importlib.import_module(f"graysam.{command}").main(arguments) == 0
    for name in ("metrics.csv", "metrics_baseline.csv"):
        (row,) = csv.DictReader((tmp_path / name).read_text().splitlines())
        assert float(row["dsc"]) > 0.9
