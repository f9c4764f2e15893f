"""Write the pages of the reference that come from code: commands, configuration, and one page for each room.

MkDocs calls `on_files` as a hook (mkdocs.yml). Nothing is written to disk.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from graysam.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
HYDRA = """Arguments are `key=value` or `group=choice` of [the configuration](configuration.md). The options are
Hydra's: `-m` runs a sweep (of `train` alone), `--cfg job` prints the configuration, `--help` lists the others.
"""


class _ParserFoundError(Exception):
    pass


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the folder."""
    rooms = {f"reference/rooms/{path.parent.name}.md": room(path.parent) for path in ROOT.glob("graysam/*/__init__.py")}
    pages = {"reference/commands.md": commands(), "reference/configuration.md": configuration(), **rooms}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def room(folder: Path) -> str:
    """Return the page of a room: its public modules, whose docstrings mkdocstrings fills in."""
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    purpose = importlib.import_module(f"graysam.{folder.name}").__doc__
    modules = [f"::: graysam.{folder.name}.{name}\n" for name in names]
    return "\n".join([f"# graysam.{folder.name}\n\n{purpose}\n", *modules])


def commands() -> str:
    """Return the page of all commands, from their parsers."""
    text = [
        "# Commands\n",
        "Every command runs as `graysam NAME` and as `python -m graysam.NAME`. Exit codes: 0 all is done; 1 something",
        "could not be done and is listed at the end; 2 the input cannot be used, and nothing is written; 130 Ctrl-C;",
        "143 SIGTERM.\n",
    ]
    for name, purpose in COMMANDS.items():
        description = (importlib.import_module(f"graysam.{name}").__doc__ or "").partition("\n\n")[2].strip()
        text += [f"## graysam {name}\n", f"{purpose[0].upper()}{purpose[1:]}.\n", f"{description}\n"]
        actions = [action for action in parser(name)._actions if not isinstance(action, argparse._HelpAction)]
        if any("--multirun" in action.option_strings for action in actions):
            text.append(HYDRA)
        elif actions:
            text += ["| argument | meaning |", "|---|---|", *map(_row, actions), ""]
    return "\n".join(text)


def parser(command: str) -> argparse.ArgumentParser:
    """Return the parser of a command, which it makes when it starts."""

    def found(self: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise _ParserFoundError(self)

    module = importlib.import_module(f"graysam.{command}")
    with mock.patch.object(argparse.ArgumentParser, "parse_args", found):
        try:
            module.main()
        except _ParserFoundError as error:
            return error.args[0]
    raise RuntimeError(f"graysam.{command} has no parser")


def _row(action: argparse.Action) -> str:
    """Return an argument's row: its names with what they take, and its help."""
    choices = None if action.choices is None else "{" + ",".join(map(str, action.choices)) + "}"
    value = "" if action.nargs == 0 else str(action.metavar or choices or action.dest.upper())
    names = [f"{option} {value}".strip() for option in action.option_strings] or [value]
    help_text = " ".join((action.help or "").split())
    required = "; required" if action.required and action.option_strings else ""
    return f"| {'<br>'.join(f'`{_cell(name)}`' for name in names)} | {_cell(help_text)}{required} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def configuration() -> str:
    """Return the page of all config files: the top-level ones, the experiments, and each group's choices."""
    conf = ROOT / "conf"
    text = [
        "# Configuration\n",
        "`graysam train` and `graysam pack` take `key=value`; `group=choice` replaces a part of the configuration by a",
        "file of `conf/`. `--cfg job` prints the result without running it, and `graysam check` checks every file.\n",
    ]
    for path in sorted(conf.glob("*.yaml"), key=lambda path: path.stem != "train"):
        text += [f"## {path.name}\n", f"```yaml\n{path.read_text()}```\n"]
    folders = sorted(path for path in conf.iterdir() if path.is_dir() and path.name != "experiment")
    for folder in [conf / "experiment", *folders]:
        text += [f"## {folder.name}\n"]
        for path in sorted(folder.glob("*.yaml")):
            text += [f'??? note "`{folder.name}={path.stem}`: {first_sentence(path)}"\n', "    ```yaml"]
            text += [f"    {line}".rstrip() for line in path.read_text().splitlines()]
            text += ["    ```\n"]
    return "\n".join(text)


def first_sentence(path: Path) -> str:
    """Return the first sentence of the comment that a config file begins with, or its target."""
    lines = path.read_text().splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith(("# @package", "# python -m", "# with ")):
            comment.append(line[1:].strip())
    target = next((line.partition(": ")[2] for line in lines if line.startswith("_target_")), path.stem)
    text = " ".join(comment) or f"{target}."
    return text.split(". ")[0].removesuffix(".").replace('"', "'")
