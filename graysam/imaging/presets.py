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
    parameters = yaml.safe_load((conf_dir() / "channels" / f"{name}.yaml").read_text(encoding="utf-8"))
    target = parameters.pop("_target_").rpartition(".")[2]
    (kind,) = (kind for kind, scheme_type in _SCHEMES.items() if scheme_type.__name__ == target)
    return scheme_from_dict({"name": kind, "params": {**parameters, **overrides}})


def scheme_to_dict(scheme: Scheme) -> dict[str, Any]:
    """Return `{"name": ..., "params": {field: value}}` of plain values, for a checkpoint or an exported model."""
    names = {scheme_type: name for name, scheme_type in _SCHEMES.items()}
    return {"name": names[type(scheme)], "params": dataclasses.asdict(scheme)}


def scheme_from_dict(stored: dict[str, Any]) -> Scheme:
    """Build a scheme from the result of `scheme_to_dict`.

    Raises:
        ValueError: an unknown name, or missing, unknown or invalid parameters.
    """
    try:
        if stored["name"] not in _SCHEMES:
            raise ValueError(f"unknown channel scheme {stored['name']!r}; choose one of {', '.join(_SCHEMES)}")
        return _SCHEMES[stored["name"]](**stored["params"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{stored!r} is not a channel scheme: {error}") from error
