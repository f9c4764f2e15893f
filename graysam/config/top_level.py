"""The keys at the top of a composed config, held against its own file and the types of its settings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict, get_type_hints

from graysam.config.messages import suggestion
from graysam.config.settings import REGISTRIES, SETTINGS
from graysam.config.signatures import Accepted, Problem, check_mapping, locate
from graysam.config.sources import read_yaml


class _Untyped(TypedDict):
    """Of a config whose settings have no types."""


def groups_of(content: dict[str, Any]) -> dict[str, Any]:
    """Return the groups in the defaults list of a file at the top, each with its choice."""
    entries = content.get("defaults") or []
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {group.lstrip("/"): choice for group, choice in pairs if not group.startswith("override ")}


def check_top(conf: Path, config_name: str, plain: dict[str, Any]) -> Iterator[Problem]:
    """Check the keys at the top, which are those of the config's own file, and their types."""
    file = f"{conf.name}/{config_name}.yaml"
    content = read_yaml(conf / f"{config_name}.yaml")
    groups = groups_of(content)
    own = content.keys() - {"defaults", "hydra"}
    own |= {group for group, choice in groups.items() if choice is not None}
    misplaced = groups.keys() - own & plain.keys()
    for key in sorted(misplaced):
        yield Problem(key, f"is no key of {file}; `# @package _global_` is missing on top of the chosen file")
    settings = SETTINGS.get(config_name, _Untyped)
    types = {**dict.fromkeys(sorted(own), Any), **get_type_hints(settings)}
    given = {key: value for key, value in plain.items() if key not in misplaced}
    yield from check_mapping(given, Accepted(file, types, settings.__required_keys__ | own), "")
    for path, registry in REGISTRIES.items():
        yield from _check_registry(plain, path, registry)


def _check_registry(plain: dict[str, Any], path: str, registry: str) -> Iterator[Problem]:
    """Check that the items of a list are keys of a dictionary; whether it is a list is checked elsewhere."""
    group, _, key = path.partition(".")
    given = plain[group].get(key) if isinstance(plain.get(group), dict) else None
    if isinstance(given, list) and given:
        names = list(locate(registry))
        for name in given:
            if isinstance(name, str) and name not in names:
                yield Problem(path, f"has {name!r}, which is unknown{suggestion(name, names)}")
