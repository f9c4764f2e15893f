"""Composing Hydra configs into plain containers, without running anything."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graysam.config.faults import mended
from graysam.config.messages import first_line, suggestion
from graysam.config.resolving import Values
from graysam.config.sources import COMPOSE_ERRORS, loader_of
from graysam.system.folders import conf_dir


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Return a config as plain dictionaries, lists and scalars, all interpolations resolved.

    Raises:
        ValueError: a value is missing (`???`) or an interpolation does not resolve.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        values = Values(config)
        values.resolve(OmegaConf.to_container(config, resolve=False), "")
        problems = [f"{path} {text}" for path, text in values.problems]
        raise ValueError(f"config: {' | '.join(problems) or first_line(error)}") from error
    return plain  # type: ignore[return-value]


def compose_plain(config_name: str, overrides: Sequence[str] = (), conf: Path | None = None) -> dict[str, Any]:
    """Compose a top-level config with overrides into plain containers, without running anything.

    Args:
        config_name: a file of the folder of configs, without suffix.
        overrides: as on the command line.
        conf: folder of configs; None for the project's own.

    Raises:
        ValueError: unknown keys, groups or choices, all of them in one line.
    """
    conf = conf_dir() if conf is None else conf
    try:
        with loader_of(conf):
            config = compose(config_name, overrides=list(overrides))
    except COMPOSE_ERRORS as error:
        with mended(conf, config_name, overrides, error) as mending:
            raise ValueError(f"config: {' | '.join(mending.problems)}") from error
    return to_plain(config)


def load_group(group: str, name: str) -> dict[str, Any]:
    """Return one choice of a config group as plain containers, without its `_target_`.

    Raises:
        ValueError: there is no such choice; with the nearest valid one.
    """
    valid = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
    if name not in valid:
        raise ValueError(f"{group} {name!r} is unknown{suggestion(name, valid)}")
    with loader_of(conf_dir()):
        chosen = to_plain(compose(overrides=[f"+{group}={name}"]))[group]
    chosen.pop("_target_", None)
    return chosen
