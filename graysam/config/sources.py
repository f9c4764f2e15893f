"""The files of a folder of configs: reading one as it stands, and the names that its defaults list leads to."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from graysam.config.messages import closest, first_line, shown, suggestion

COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError)
_KEY = re.compile(r"((?:(?:override|optional) +)*)(/?)([^@]+)(@.*)?")  # of an entry such as `override /data: demo`
_PACKAGE = re.compile(r"# *@package\b.*")


@contextmanager
def loader_of(conf: Path) -> Iterator[ConfigLoader]:
    """Open a folder of configs for Hydra; `hydra.compose` works inside. Also within a command that Hydra runs."""
    one = GlobalHydra.instance()
    outer, one.hydra = one.hydra, None  # Hydra refuses a second one, even for a folder read on the way
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            yield GlobalHydra.instance().config_loader()
    finally:
        GlobalHydra.instance().hydra = outer


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a config file as it stands, interpolations unresolved.

    Raises:
        ValueError: it is not readable as YAML, or no mapping.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1} is" if error.problem_mark is not None else "is"
        raise ValueError(f"{line} not readable as YAML: {error.problem or first_line(error)}") from error
    except COMPOSE_ERRORS as error:
        raise ValueError(f"is not readable as YAML: {first_line(error)}") from error
    if not isinstance(plain, dict):
        raise ValueError("holds no `key: value` lines")
    return plain  # type: ignore[return-value]


class Groups:
    """The groups of configs that Hydra finds, its own ones too, and the choices of each."""

    def __init__(self, loader: ConfigLoader, overrides: Sequence[str] = ()) -> None:
        """List them; `overrides` are those of `hydra.searchpath`, which add folders."""
        self.choices: dict[str, list[str]] = {}
        todo = [""]
        while todo:
            parent = todo.pop()
            names = loader.get_group_options(parent, ObjectType.GROUP, overrides=list(overrides))
            below = [f"{parent}/{name}".lstrip("/") for name in names]
            self.choices |= {name: loader.get_group_options(name, overrides=list(overrides)) for name in below}
            todo += below

    def check(self, group: str, choice: str) -> str | None:
        """Return what is wrong with a choice, None where it exists."""
        if choice in self.choices[group]:
            return None
        return f"{group} has no choice {choice!r}{suggestion(choice, self.choices[group])}"


class _Entry:
    """An entry of a defaults list that names choices of a group, e.g. `override /data: demo` or `challenge`."""

    def __init__(self, entry: dict[str, Any] | str, folder: str) -> None:
        """Read an entry of a file in a folder ("" at the top)."""
        self.folder = folder
        self.key, choices = next(iter(entry.items())) if isinstance(entry, dict) else ("", entry)
        self.several = isinstance(choices, list)
        self.choices = list(choices) if self.several else [choices]
        self.words = self.package = self.prefix = ""
        path = self.key
        if not path:
            path, slash, self.choices[0] = choices.partition("@")[0].rpartition("/")
            self.prefix = path + slash
        if match := _KEY.fullmatch(self.key):
            self.words, root, path, self.package = match.groups("")
            path = root + path
        self.group = path[1:] if path.startswith("/") else f"{folder}/{path}".strip("/")

    @staticmethod
    def is_one(entry: Any) -> bool:
        """Tell whether an entry names choices, and as they stand."""
        choices = next(iter(entry.values())) if isinstance(entry, dict) and len(entry) == 1 else entry
        names = choices if isinstance(choices, list) else [choices]
        return entry != "_self_" and "${" not in str(entry) and all(isinstance(name, str) for name in names)

    def mend(self, groups: Groups) -> list[str]:
        """Put the nearest valid names in place of unknown ones, and return what was wrong."""
        if not self.group:
            return []  # a config at the top
        faults = []
        if self.group not in groups.choices:
            last = self.group.rpartition("/")[2]  # an experiment's `data: demo` is meant as `override /data: demo`
            near = last if last in groups.choices else closest(self.group, groups.choices)
            meant = f"; did you mean '{'override ' if near == last else ''}/{near}'?" if near else ""
            faults.append(f"there is no group {self.group!r}{meant}")
            if near is None:
                self.choices = []
                return faults
            words = self.words or ("override " if self.folder else "")
            self.group, self.key = near, f"{words}/{near}{self.package}"
        wrong = {choice: fault for choice in self.choices if (fault := groups.check(self.group, choice))}
        nearest = [closest(c, groups.choices[self.group]) if c in wrong else c for c in self.choices]
        self.choices = [choice for choice in nearest if choice is not None]
        return faults + list(wrong.values())

    def written(self) -> list[Any]:
        """Return the entry as a list of one, of none when no choice is left."""
        if not self.choices:
            return []
        if not self.key:
            return [self.prefix + self.choices[0]]
        return [{self.key: self.choices if self.several else self.choices[0]}]


@dataclass
class Files:
    """What is wrong in the files that lead to a config.

    mended: the text of those at fault as it should be. unreadable: those of which nothing is left.
    """

    problems: list[str] = field(default_factory=list)
    mended: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def check_files(conf: Path, names: Sequence[str], groups: Groups) -> Files:
    """Check that the named configs, and all that their defaults lists name, are readable and exist.

    Args:
        conf: folder of the configs.
        names: paths inside it, without suffix; one that is not there is passed over.
    """
    files = Files()
    todo, seen = list(names), set()
    while todo:
        name = todo.pop(0)
        path = conf / f"{name}.yaml"
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        header = [line for line in path.read_text(errors="replace").splitlines() if _PACKAGE.fullmatch(line)]
        faults, defaults = [], []
        try:
            content = read_yaml(path)
        except ValueError as error:
            content, faults = {}, [str(error)]
            files.unreadable.append(name)
        for entry in content.get("defaults") or []:
            if not isinstance(entry, str | dict) or not entry:
                faults.append(f"defaults: {shown(entry)} is no entry; required: a name, or group: choice")
                continue
            if not _Entry.is_one(entry):
                defaults.append(entry)
                continue
            named = _Entry(entry, name.rpartition("/")[0])
            wrong = named.mend(groups)
            todo += [f"{named.group}/{choice}".lstrip("/") for choice in named.choices]
            defaults += named.written() if wrong else [entry]
            faults += [f"defaults: {fault}" for fault in wrong]
        if faults:
            files.problems += [f"{conf.name}/{name}.yaml: {fault}" for fault in faults]
            text = OmegaConf.to_yaml(OmegaConf.create({**content, "defaults": defaults} if content else {}))
            files.mended[f"{name}.yaml"] = "\n".join([*header, text])
    return files
