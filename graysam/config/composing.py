"""Composing Hydra configs into plain containers, without running anything."""

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graysam.resources import conf_dir


def first_line(error: Exception) -> str:
    """Return Hydra's message without its traceback and hints, in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Return a config as plain dictionaries, lists and scalars, all interpolations resolved.

    Raises:
        ValueError: a value is missing (`???`) or an interpolation does not resolve.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"config: {first_line(error)}") from error
    return plain  # type: ignore[return-value]


def compose_plain(config_name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose a top-level config with overrides into plain containers, without running anything.

    Raises:
        ValueError: an unknown key, group or value, in one line.
    """
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException as error:
            raise ValueError(f"config: override {override!r}: {first_line(error)}") from error
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return to_plain(compose(config_name, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"config: {first_line(error)}") from error


def load_group(group: str, name: str) -> dict[str, Any]:
    """Return one choice of a config group as plain containers, without its `_target_`.

    Raises:
        ValueError: there is no such choice; the valid ones are listed.
    """
    folder = conf_dir() / group
    valid = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in valid:
        raise ValueError(f"{group} {name!r} is unknown; valid are {', '.join(valid)}")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = to_plain(compose(overrides=[f"+{group}={name}"]))[group]
    chosen.pop("_target_", None)
    return chosen
