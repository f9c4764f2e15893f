"""What keeps a config from being composed: all of it at once, where Hydra stops at the first.

Each fault is mended by the nearest valid name, or left out, so that the rest can be composed and checked too.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from graysam.config.messages import closest, first_line, suggestion
from graysam.config.signatures import accepted_by, locate
from graysam.config.sources import COMPOSE_ERRORS, Groups, check_files, loader_of


@dataclass
class Mended:
    """What was wrong with a folder of configs and overrides, and those that were probably meant.

    config: what they are composed to, None where not even they can be. unknown: key paths below which it does not hold
    what was meant, because a file could not be read.
    """

    conf: Path
    config: DictConfig | None = None
    overrides: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def parse(override: str, loader: ConfigLoader | None = None) -> Override:
    """Parse one override; with a loader, one that names choices by a pattern too.

    Raises:
        ValueError: in one line.
    """
    try:
        return OverridesParser.create(loader).parse_overrides([override])[0]
    except HydraException as error:
        raise ValueError(f"{override}: {first_line(error)}") from error


@contextmanager
def mended(conf: Path, config_name: str, overrides: Sequence[str], cause: Exception) -> Iterator[Mended]:
    """Find everything that keeps a config from being composed, and put what was probably meant in its place.

    Files at fault are mended in a copy of the folder, which lasts as long as the context. `cause` is what Hydra said,
    which is the problem where no other is found.
    """
    result = Mended(conf)
    parsed = []
    for override in overrides:
        try:
            parsed.append(parse(override))
        except ValueError as error:
            result.problems.append(str(error))
    folders = [override for override in parsed if override.key_or_group == "hydra.searchpath"]
    result.overrides = [str(override.input_line) for override in folders]
    with loader_of(conf) as loader:
        groups = Groups(loader, result.overrides)
        choices = [o for o in parsed if o.key_or_group in groups.choices and not isinstance(o.value(), dict)]
        chosen = [_mend_choice(override, groups, result.problems) for override in choices]
        names = [f"{o.key_or_group}/{choice}" for o in map(parse, chosen) for choice in _names(o)]
        files = check_files(conf, [config_name, *names], groups)
    result.problems += files.problems
    result.unknown = [name.rpartition("/")[0].replace("/", ".") for name in files.unreadable]
    with TemporaryDirectory() as copy:
        if files.mended:
            result.conf = Path(copy) / conf.name
            shutil.copytree(conf, result.conf)
            for file, text in files.mended.items():
                (result.conf / file).write_text(text)
        if config_name not in files.unreadable:
            with loader_of(result.conf):
                values = [override for override in parsed if override not in choices + folders]
                _compose(result, config_name, chosen, values, groups)
        result.problems = list(dict.fromkeys(result.problems)) or [first_line(cause)]
        yield result


def _compose(result: Mended, config_name: str, chosen: list[str], values: list[Override], groups: Groups) -> None:
    """Compose a config from all overrides that Hydra takes; those that it does not take are problems."""
    try:
        try:
            config = compose(config_name, overrides=[*result.overrides, *chosen], return_hydra_config=True)
            result.overrides += chosen
        except COMPOSE_ERRORS:  # one of them, or none
            config = compose(config_name, overrides=result.overrides, return_hydra_config=True)
            for line in chosen:
                with _kept(line, result):
                    config = compose(config_name, overrides=[*result.overrides, line], return_hydra_config=True)
        for override in values:
            with _kept(str(override.input_line), result):
                _update(override, config, groups)
        result.config = compose(config_name, overrides=result.overrides)
    except COMPOSE_ERRORS as error:
        result.problems.append(first_line(error))


@contextmanager
def _kept(line: str, result: Mended) -> Iterator[None]:
    """Keep an override when it is taken, or note why it is not."""
    try:
        yield
        result.overrides.append(line)
    except COMPOSE_ERRORS as error:
        result.problems.append(f"{line}: {first_line(error)}")


def _names(override: Override) -> list[str]:
    """Return the choices that an override names."""
    value = override.value()
    return [str(name) for name in (value if isinstance(value, list) else [value])]


def _mend_choice(override: Override, groups: Groups, problems: list[str]) -> str:
    """Return an override that chooses from a group, with the nearest of the group's choices."""
    line, group = str(override.input_line), override.key_or_group
    key, _, given = line.partition("=")
    valid = groups.choices[group]
    if override.is_delete():
        return line
    if override.is_sweep_override():
        problems.append(f"{line}: several choices are a sweep; add -m")
        return f"{key}={closest(given.partition(',')[0], valid) or valid[0]}"
    names = ["none" if name == "None" else name for name in _names(override)]  # null, which Hydra does not take
    wrong = [name for name in names if name not in valid]
    problems += [f"{line}: {groups.check(group, name)}" for name in wrong]
    if override.value() is None and not wrong:
        problems.append(f"{line}: null is no choice; did you mean 'none'?")
    if not wrong and override.value() is not None:
        return line
    near = [closest(name, valid) or valid[0] for name in names]
    return f"{key}={near[0] if len(near) == 1 else '[' + ','.join(near) + ']'}"


def _update(override: Override, config: DictConfig, groups: Groups) -> None:
    """Change a config as Hydra would, in place.

    Raises:
        ValueError: Hydra would refuse, with the nearest valid key.
    """
    key = override.key_or_group
    if override.is_sweep_override():
        raise ValueError("several values are a sweep; add -m, or put quotes around a value with commas")
    if "/" in key or override.package is not None:
        raise ValueError(f"there is no group {key!r}{suggestion(key, groups.choices)}")
    end = _end_of(config, key)
    if override.is_add() and end is None and not isinstance(override.value(), dict | list):
        raise ValueError(f"{key} is there already; leave out the +")
    if override.is_add() or override.is_force_add():
        OmegaConf.update(config, key, override.value(), force_add=True)
    elif end is not None:
        raise ValueError(_no_key(config, key, *end, groups))
    elif override.is_delete() and OmegaConf.select(config, key) is None:
        raise ValueError(f"{key} is null, which Hydra takes for absent; leave it, or set it to null")
    elif override.is_delete():
        parent, _, name = key.rpartition(".")
        with open_dict(config):
            del (OmegaConf.select(config, parent) if parent else config)[name]
    else:
        OmegaConf.update(config, key, override.value())


def _end_of(config: DictConfig, key: str) -> tuple[str, str] | None:
    """Return how far a key path leads in a config and the first part that is not there; None when all of it is."""
    node: Any = OmegaConf.to_container(config, resolve=False)
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, dict) or part not in node:
            return ".".join(parts[:depth]), part
        node = node[part]
    return None


def _no_key(config: DictConfig, key: str, path: str, part: str, groups: Groups) -> str:
    """Return what is wrong with a key path that leads no further than `path`, where `part` is missing."""
    holder = OmegaConf.select(config, path) if path else config
    if not isinstance(holder, DictConfig):
        return f"{path} holds no keys"
    node: dict[str, Any] = OmegaConf.to_container(holder, resolve=False)  # type: ignore[assignment]
    target = node.get("_target_")
    if isinstance(target, str) and f"{path}.{part}" == key:
        try:
            if part in accepted_by(locate(target), target).types:
                return f"{path} does not set {part!r} so far; to add it, write +{key}=..."
        except ValueError:
            pass  # told where objects are checked
    names = [str(name) for name in node if not str(name).startswith("_")]
    names += [] if path else [name for name in groups.choices if "/" not in name]
    return f"{path or 'the config'} has no key {part!r}{suggestion(part, names)}"
