"""Making a function of a plain config a command with Hydra's command line."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import NoReturn

import hydra
from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser  # Hydra's own, so that each of its options is known here
from omegaconf import DictConfig

from graysam.config.composing import to_plain
from graysam.config.jobs import Function, attempt
from graysam.config.sweeping import Sweep, quoted, sweep_summary
from graysam.config.validation import check_sweep
from graysam.system.folders import conf_dir
from graysam.system.terminal import BAD_INPUT


def entry_point(config_name: str) -> Callable[[Function], Callable[[], int]]:
    """Make a function of a plain dictionary a command with Hydra's command line.

    The function returns an exit code. A `ValueError`, and any mistake in the overrides, becomes one line on the
    standard error and exit code 2; a sweep (`-m`) is checked as a whole before its first job.
    """

    def decorate(function: Function) -> Callable[[], int]:
        @wraps(function)
        def main() -> int:
            try:
                return Command(config_name, sys.argv[1:]).run(function)
            except ValueError as error:
                for line in str(error).splitlines():
                    print(f"error: {line}", file=sys.stderr)
                return BAD_INPUT

        return main

    return decorate


class Command:
    """One command line.

    Args:
        config_name: of the top-level config.
        arguments: without the program's name.

    Raises:
        ValueError: an unknown option, or a folder of configs that is none.
    """

    def __init__(self, config_name: str, arguments: Sequence[str]) -> None:
        self.options = parse_options(arguments)
        self.config_name = self.options.config_name or config_name
        self.config_dir = self.options.config_path or str(conf_dir())
        if not os.path.isabs(self.config_dir):
            raise ValueError(
                "--config-path replaces all configs and needs an absolute path; --config-dir adds a folder"
            )
        for folder in (self.config_dir, self.options.config_dir):
            if folder is not None and not os.path.isdir(folder):
                raise ValueError(f"{folder} is no folder of configs")
        self.overrides: list[str] = list(self.options.overrides)
        if self.options.config_dir is not None:  # for composing that is an override, and no option
            self.overrides.insert(0, f"hydra.searchpath=[{quoted(os.path.abspath(self.options.config_dir))}]")

    def run(self, function: Function) -> int:
        """Do what the command line asks for and return the exit code.

        Raises:
            ValueError: mistakes in the overrides, a line for each.
        """
        options = self.options
        if options.hydra_help or options.shell_completion or options.experimental_rerun:
            return self._hand_over(function)
        problems = check_sweep(self.config_name, self.overrides, Path(self.config_dir))
        if problems:
            raise ValueError("\n".join(problems))
        if options.help or options.cfg or options.info:
            return self._hand_over(function)
        with initialize_config_dir(self.config_dir, job_name=self.config_name, version_base="1.3"):
            sweep = Sweep(self.config_name, self.overrides)
            if options.multirun or sweep.in_config:
                return carry_out_sweep(sweep, function)
        if sweep.several:
            raise ValueError(f"several values of {', '.join(sweep.several)}: add -m to run them one after another")
        return self._hand_over(function)

    def _hand_over(self, function: Function) -> int:
        """Let Hydra show what it is asked to show, or run one job."""
        codes: list[int] = []

        @wraps(function)  # by which Hydra finds the command's name
        def task(config: DictConfig) -> None:
            codes.append(attempt(function, to_plain(config))[0])

        try:
            hydra.main(version_base="1.3", config_path=self.config_dir, config_name=self.config_name)(task)()
        except SystemExit as error:
            if error.code and (self.options.cfg or self.options.info or self.options.help):
                return BAD_INPUT  # Hydra has said why
            raise
        return max(codes, default=0)


def carry_out_sweep(sweep: Sweep, function: Function) -> int:
    """Run a sweep's jobs, print how they ended and what they found, and return the exit code."""
    jobs = sweep.plan()
    code, outcomes = sweep.run(jobs, function)
    if os.environ.get("RANK", "0") == "0":  # of several processes that carry out the same sweep, one speaks
        print(sweep_summary(jobs, outcomes), end="", flush=True)
    return code


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line as Hydra does.

    Raises:
        ValueError: an unknown option, or one without its value.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise ValueError(f"{message}; options stand before or after all overrides, --hydra-help lists them")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(arguments)
