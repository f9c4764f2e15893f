"""Making a function of a plain config a command with Hydra's command line."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import hydra
from omegaconf import DictConfig

from graysam.config.composing import compose_plain, to_plain
from graysam.resources import conf_dir
from graysam.terminal import BAD_INPUT, FAILED, one_line


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
