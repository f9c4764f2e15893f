"""Compose Hydra configs into plain containers, with one clear line for what cannot be composed."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from graysam.config.messages import first_line, format_value, suggestion

COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError)
_QUOTED = re.compile(r"'(.+?)'")


class ConfigError(ValueError):
    """A config cannot be composed or resolved; the message is one line."""


@contextmanager
def open_configs(conf: Path) -> Iterator[None]:
    """Open a folder of configs for `compose`, also within a command that Hydra runs."""
    hydra = GlobalHydra.instance()
    outer, hydra.hydra = hydra.hydra, None  # Hydra allows one folder at a time
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            yield
    finally:
        hydra.hydra = outer


def compose_config(config_name: str, overrides: Sequence[str], conf: Path) -> DictConfig:
    """Compose a config with its subtree `hydra`; interpolations stay as they are.

    Raises:
        ConfigError: it cannot be composed.
    """
    try:
        with open_configs(conf):
            return compose(config_name, overrides=list(overrides), return_hydra_config=True)
    except COMPOSE_ERRORS as error:
        raise ConfigError(explain(error, overrides, conf)) from error


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Return a config without its subtree `hydra` as plain containers, interpolations resolved.

    Raises:
        ConfigError: a mandatory value (`???`) is missing or an interpolation does not resolve; the message begins with
            the key path.
    """
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raw, key = dict(_leaves(OmegaConf.to_container(config))), "".join(_QUOTED.findall(str(error))[:1])
        wrong = (path for path, value in raw.items() if value == "???" or f"${{{key}}}" in str(value))
        path = next(wrong, str(error.full_key))
        reason = f"{str(error).splitlines()[0]}{suggestion(key, raw)}"
        raise ConfigError(f"{path} is {format_value(raw.get(path))}: {reason}") from error
    return plain


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the key path and value of everything below a node that is not a mapping."""
    if not isinstance(node, dict):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{path}.{key}".lstrip("."))


def explain(error: Exception, overrides: Sequence[str], conf: Path) -> str:
    """Return in one line what Hydra refused, with the override or file at fault and the nearest valid name."""
    if isinstance(error, ConfigError):
        return str(error)
    text, cause = str(error), error.__cause__
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        file = os.path.relpath(error.problem_mark.name, conf.parent)
        return f"{file}: line {error.problem_mark.line + 1}: invalid YAML: {error.problem}"
    if isinstance(error, MissingConfigException) and "/" in (error.missing_cfg_file or ""):
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        place = next((o for o in overrides if o.lstrip("+").startswith(f"{group}=")), text.partition(":")[0])
        hint = suggestion(name, error.options or []) or f"; choices are {', '.join(error.options or [])}"
        return f"{place}: {group} has no choice {name!r}{hint}"
    if "Config group override must be" in text:
        place = next(o for o in overrides if o.endswith("=null") and (conf / o.partition("=")[0]).is_dir())
        return f"{place}: a group cannot be null; choose none"
    quoted = _QUOTED.findall(text)
    place = next((o for o in overrides if quoted and quoted[0] in o), "")
    if isinstance(error, OverrideParseException):
        place = error.override
    reason = first_line(error)
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        key, path = str(cause.key), str(cause.full_key)
        near = suggestion(key, cause.parent_node, path)
        reason = f"{path.rpartition('.')[0] or 'the config'} has no key {key!r}{near or f'; +{place} adds it'}"
    elif "defaults list" in text:
        reason = f"{reason.rstrip('.')}{suggestion(quoted[-1], [group.name for group in conf.iterdir()])}"
    return f"{place}: {reason}" if place else reason
