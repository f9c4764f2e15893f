"""The one module below the entry points that knows Hydra: composing, checking and handing over plain containers."""

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graysam.resources import conf_dir
from graysam.terminal import BAD_INPUT, FAILED, one_line


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Return a config as plain dictionaries, lists and scalars, all interpolations resolved.

    Raises:
        ValueError: a value is missing (`???`) or an interpolation does not resolve.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"config: {_first_line(error)}") from error
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
            raise ValueError(f"config: override {override!r}: {_first_line(error)}") from error
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return to_plain(compose(config_name, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"config: {_first_line(error)}") from error


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


def build(config: dict[str, Any], **arguments: Any) -> Any:
    """Build the object that a config's `_target_` names, with further arguments given in code.

    Raises:
        ValueError: the target does not exist, or does not take these arguments.
    """
    try:
        factory = instantiate(config, _partial_=True, _convert_="all")
    except InstantiationException as error:
        raise ValueError(f"config: {_first_line(error)}") from error
    partial = bool(config.get("_partial_"))
    signature = inspect.signature(factory.func)
    try:
        (signature.bind_partial if partial else signature.bind)(*factory.args, **factory.keywords, **arguments)
    except TypeError as error:
        raise ValueError(f"config: {config['_target_']}: {error}") from error
    return factory if partial else factory(**arguments)


def build_all(configs: dict[str, Any]) -> list[Any]:
    """Build every entry of a group that holds several objects; an entry that is null is left out."""
    return [build(config) for config in configs.values() if config is not None]


def entry_point(config_name: str) -> Callable[[Callable[[dict[str, Any]], int]], Callable[[], int]]:
    """Make a function of a plain dictionary a command with Hydra's command line.

    The function returns an exit code. A `ValueError`, and any mistake in the overrides, becomes one line on the
    standard error and exit code 2.
    """

    def decorate(function: Callable[[dict[str, Any]], int]) -> Callable[[], int]:
        codes: list[int] = []

        def task(config: DictConfig) -> None:
            try:
                codes.append(function(to_plain(config)))
            except (ValueError, OSError) as error:
                print(f"error: {one_line(error)}", file=sys.stderr)
                codes.append(BAD_INPUT)
            except FloatingPointError as error:  # a diverged training: no bad input, but no traceback's use either
                print(f"error: {error}", file=sys.stderr)
                codes.append(FAILED)

        @wraps(function)
        def main() -> int:
            codes.clear()
            arguments = sys.argv[1:]
            if not any(a.startswith("-") for a in arguments):  # a sweep's overrides, say, are no single config
                try:
                    compose_plain(config_name, arguments)
                except ValueError as error:
                    print(f"error: {error}", file=sys.stderr)
                    return BAD_INPUT
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)()
            return max(codes, default=0)

        return main

    return decorate


def _first_line(error: Exception) -> str:
    """Return Hydra's message without its traceback and hints, in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
