"""Channel schemes by name, and as plain containers for checkpoints and exported models.

The presets are the files of `conf/channels`, which Hydra composes in training and PyYAML reads everywhere else.
"""

import dataclasses
from typing import Any

from graysam.imaging.channels import Paper, PeronaMalik, Released, Replicate, Scheme
from graysam.system.folders import conf_dir

_SCHEMES: dict[str, type[Scheme]] = {
    "replicate": Replicate,
    "paper": Paper,
    "released": Released,
    "perona_malik": PeronaMalik,
}


def scheme_names() -> list[str]:
    """Return the names `load_scheme` takes, sorted."""
    return sorted(path.stem for path in (conf_dir() / "channels").glob("*.yaml"))


def load_scheme(name: str, **overrides: Any) -> Scheme:
    """Build the scheme of `conf/channels/<name>.yaml`, with single parameters replaced.

    Raises:
        ValueError: an unknown name (the message lists the valid ones), parameter or value.
    """
    import yaml  # only here: exported models and checkpoints describe their scheme

    if name not in scheme_names():
        raise ValueError(f"unknown channel scheme {name!r}; choose one of {', '.join(scheme_names())}")
    path = conf_dir() / "channels" / f"{name}.yaml"
    parameters = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(parameters, dict):
        raise ValueError(f"{path} holds {type(parameters).__name__}; required: `key: value` lines")
    target = parameters.pop("_target_", "")
    classes = {f"{scheme.__module__}.{scheme.__qualname__}": scheme_name for scheme_name, scheme in _SCHEMES.items()}
    if target not in classes:
        raise ValueError(f"{path} has _target_ {target!r}; choose one of {', '.join(classes)}")
    return _build(classes[target], {**parameters, **overrides})


def scheme_to_dict(scheme: Scheme) -> dict[str, Any]:
    """Return `{"name": ..., "params": {field: value}}` of plain values, for a checkpoint or an exported model."""
    names = {scheme_type: name for name, scheme_type in _SCHEMES.items()}
    if type(scheme) not in names:
        raise ValueError(f"{type(scheme).__name__} is not registered; add it to graysam.imaging.presets._SCHEMES")
    return {"name": names[type(scheme)], "params": dataclasses.asdict(scheme)}


def scheme_from_dict(stored: dict[str, Any]) -> Scheme:
    """Build a scheme from the result of `scheme_to_dict`.

    Raises:
        ValueError: an unknown name, or missing, unknown or invalid parameters.
    """
    match stored:
        case {"name": str(name), "params": dict(parameters)} if len(stored) == 2:
            pass
        case _:
            raise ValueError(f"got the channel scheme {stored!r}; a name and a dictionary of params are required")
    if name not in _SCHEMES:
        raise ValueError(f"unknown channel scheme {name!r}; choose one of {', '.join(_SCHEMES)}")
    return _build(name, parameters)


def _build(name: str, parameters: dict[str, Any]) -> Scheme:
    scheme_type = _SCHEMES[name]
    known = {field.name for field in dataclasses.fields(scheme_type)}
    if unknown := sorted(set(parameters) - known):
        raise ValueError(
            f"channel scheme {name} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    if missing := sorted(known - set(parameters)):
        raise ValueError(f"channel scheme {name} lacks {', '.join(missing)}")
    return scheme_type(**parameters)
