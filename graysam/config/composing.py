"""Compose Hydra configs into plain containers; what Hydra refuses ends in one line with the nearest valid name."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from graysam.system.command import RENAMED_KEYS
from graysam.system.environment import with_home
from graysam.system.terminal import suggestion


@contextmanager
def open_configs(conf: Path) -> Iterator[None]:
    """Open a folder of configs, also within a command that Hydra runs.

    Raises:
        ValueError: what Hydra refuses, in one line.
    """
    hydra = GlobalHydra.instance()
    outer, hydra.hydra = hydra.hydra, None  # Hydra allows one folder at a time
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        raise ValueError(_explain(error, conf)) from error
    finally:
        hydra.hydra = outer


def compose_config(config_name: str, overrides: Sequence[str], conf: Path) -> DictConfig:
    """Compose a config with its subtree `hydra`; interpolations stay as they are.

    Raises:
        ValueError: it cannot be composed; in one line.
    """
    with open_configs(conf):
        return compose(config_name, overrides=list(overrides), return_hydra_config=True)


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Return a config without its subtree `hydra` as plain containers: interpolations resolved, and `~/` the home.

    Raises:
        ValueError: in one line, there is no home folder, a mandatory value (`???`) is missing or an interpolation does
            not resolve.
    """
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = first_line(error)
        raise ValueError(f"{error.full_key}: {reason}{suggestion(_last_name(reason), config)}") from error
    return expand_home(plain)


def expand_home(node: Any) -> Any:
    """Return plain containers with the home folder in place of each text's leading `~/`; ValueError without a home."""
    if isinstance(node, dict):
        return {key: expand_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [expand_home(value) for value in node]
    return with_home(node) if isinstance(node, str) and (node == "~" or node.startswith("~/")) else node


def first_line(error: Exception) -> str:
    """Return what an error of Hydra, OmegaConf or YAML says, in one line, without the places and links that follow."""
    return " ".join(re.split(r"\n\n|\nSee http|\n *full_key", str(error))[0].split()).rstrip(".")


def key_suggestion(path: str, valid: Iterable[object]) -> str:
    """Return the end of a message about an unknown key: its new name, or the nearest valid one."""
    if path in RENAMED_KEYS:
        return f"; it was renamed to {RENAMED_KEYS[path]}"
    return suggestion(re.split("[./]", path)[-1], valid)


def _last_name(text: str) -> str:
    """Return the last part of the last name in quotes, e.g. `lr` of `'optimizer.lr'`."""
    return re.split("[./]", re.findall(r"'(.*?)'", text)[-1])[-1] if "'" in text else ""


def _explain(error: Exception, conf: Path) -> str:
    reason, cause = first_line(error), error.__cause__
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {reason}"
    if isinstance(error, MissingConfigException):
        choices = error.options or []
        hint = key_suggestion(str(error.missing_cfg_file), choices)
        return reason + (hint or f"; choices are {', '.join(choices)}")
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        return reason + key_suggestion(str(cause.full_key), cause.parent_node)
    if "defaults list" in reason:
        return reason + suggestion(_last_name(reason), [group.name for group in conf.iterdir()])
    return reason
