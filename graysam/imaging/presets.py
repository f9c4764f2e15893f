"""Channel schemes by name, and as plain containers for checkpoints and bundles.

The presets are the files of `conf/channels`, which Hydra composes in training. A laptop install has neither
Hydra nor a YAML parser, so they keep to flat `key: scalar` lines, which the reader here understands.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from graysam.imaging.channels import Paper, PeronaMalik, Released, Replicate, Scheme
from graysam.system.folders import conf_dir

Scalar = str | int | float | bool | None

_SCHEMES: dict[str, type[Scheme]] = {
    "replicate": Replicate,
    "paper": Paper,
    "released": Released,
    "perona_malik": PeronaMalik,
}
_LITERALS: dict[str, Scalar] = {"null": None, "~": None, "true": True, "false": False}


def scheme_names() -> list[str]:
    """Return the names `load_scheme` takes, sorted."""
    return sorted(path.stem for path in (conf_dir() / "channels").glob("*.yaml"))


def load_scheme(name: str, **overrides: Scalar) -> Scheme:
    """Build the scheme of `conf/channels/<name>.yaml`, with single parameters replaced.

    Raises ValueError for an unknown name (the message lists the valid ones), parameter or value.
    """
    if name not in scheme_names():
        raise ValueError(f"unknown channel scheme {name!r}; choose one of {', '.join(scheme_names())}")
    parameters = read_flat_yaml(conf_dir() / "channels" / f"{name}.yaml")
    target = str(parameters.pop("_target_", ""))
    classes = {f"{scheme.__module__}.{scheme.__qualname__}": kind for kind, scheme in _SCHEMES.items()}
    if target not in classes:
        raise ValueError(f"{name}.yaml has _target_ {target!r}; choose one of {', '.join(classes)}")
    return _build(classes[target], {**parameters, **overrides})


def scheme_to_dict(scheme: Scheme) -> dict[str, Any]:
    """Return `{"name": kind, "params": {field: value}}` of plain values, for a checkpoint or a bundle."""
    names = {scheme_type: kind for kind, scheme_type in _SCHEMES.items()}
    return {"name": names[type(scheme)], "params": dataclasses.asdict(scheme)}


def scheme_from_dict(stored: dict[str, Any]) -> Scheme:
    """Build the scheme `scheme_to_dict` described.

    Raises ValueError for an unknown name and for missing, unknown or invalid parameters.
    """
    match stored:
        case {"name": str(), "params": dict()} if len(stored) == 2:
            pass
        case _:
            raise ValueError(f"got the channel scheme {stored!r}; a name and a dictionary of params are required")
    if stored["name"] not in _SCHEMES:
        raise ValueError(f"unknown channel scheme {stored['name']!r}; choose one of {', '.join(_SCHEMES)}")
    return _build(stored["name"], stored["params"])


def _build(kind: str, parameters: dict[str, Any]) -> Scheme:
    scheme_type = _SCHEMES[kind]
    known = {field.name for field in dataclasses.fields(scheme_type)}
    if unknown := sorted(set(parameters) - known):
        names = ", ".join(sorted(known))
        raise ValueError(f"channel scheme {kind} has no parameter {', '.join(unknown)}; it has {names}")
    if missing := sorted(known - set(parameters)):
        raise ValueError(f"channel scheme {kind} lacks {', '.join(missing)}")
    return scheme_type(**parameters)


def read_flat_yaml(path: Path) -> dict[str, Scalar]:
    """Read a YAML file of flat `key: scalar` lines and comments.

    Raises ValueError naming file and line for anything else (nesting, lists, quotes, repeated keys).
    """
    values: dict[str, Scalar] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        content = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if not content:
            continue
        match = re.fullmatch(r"(\w+):(?:\s+(\S.*))?", content)
        if not match or match[1] in values or (match[2] or "").startswith(tuple("[{&*|>'\"")):
            raise ValueError(f"{path}, line {number}: {line!r}; one `key: scalar` a line is required")
        values[match[1]] = _scalar(match[2] or "null")
    return values


def _scalar(text: str) -> Scalar:
    if text.lower() in _LITERALS:
        return _LITERALS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
