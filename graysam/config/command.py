"""Make a function of a plain config a command with Hydra's command line."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra._internal.utils import get_args_parser  # Hydra's own, so that each of its options is known here
from omegaconf import DictConfig

from graysam.config.composing import compose_config, to_plain
from graysam.config.planning import Run, plan_runs
from graysam.config.sweeping import Function, run_job, run_sweep
from graysam.system.folders import conf_dir
from graysam.system.terminal import BAD_INPUT

Summarize = Callable[[Sequence[Run]], str]


def entry_point(config_name: str, summarize: Summarize | None = None) -> Callable[[Function], Callable[[], int]]:
    """Make a function of a plain config, which returns an exit code, a command with Hydra's command line.

    Every job's config is checked before the first job runs. Errors in configs and overrides, and a `ValueError` of the
    function, are printed to the standard error, one line each, and the exit code is 2.

    Args:
        config_name: of the top-level config.
        summarize: text that a sweep (`-m`) prints after its runs; None for a command without sweeps.
    """

    def decorate(function: Function) -> Callable[[], int]:
        @wraps(function)
        def main() -> int:
            try:
                return _run(config_name, function, summarize)
            except ValueError as error:
                for line in str(error).splitlines():
                    print(f"error: {line}", file=sys.stderr)
                return BAD_INPUT

        return main

    return decorate


def _run(config_name: str, function: Function, summarize: Summarize | None) -> int:
    options = get_args_parser().parse_args()
    config_name, conf = options.config_name or config_name, os.path.abspath(options.config_path or conf_dir())
    codes: list[int] = []

    @wraps(function)  # Hydra takes the command's name from it
    def task(config: DictConfig) -> None:
        codes.append(run_job(function, to_plain(config))[0])

    overrides = list(options.overrides)
    if options.config_dir is not None:  # `compose` takes it as an override
        overrides.insert(0, f"hydra.searchpath=['{os.path.abspath(options.config_dir)}']")
    if not (options.help or options.hydra_help or options.cfg or options.info or options.shell_completion):
        runs, swept = plan_runs(config_name, overrides, Path(conf))
        multirun = options.multirun or "hydra.mode=MULTIRUN" in overrides
        if multirun and summarize is None:
            raise ValueError(f"graysam.{config_name} runs one job at a time; leave out -m")
        if swept and not multirun:
            raise ValueError(f"several values of {', '.join(swept)}: add -m to run them one after another")
        if multirun and summarize is not None:
            with initialize_config_dir(conf, job_name=config_name, version_base="1.3"):
                code = run_sweep(config_name, overrides, runs, function)
            if os.environ.get("RANK", "0") == "0":  # one of the processes that run the same sweep reports
                print(summarize(runs), end="", flush=True)
            return code
    if options.cfg:
        compose_config(config_name, overrides, Path(conf))  # its errors are clearer than Hydra's
    hydra.main(version_base="1.3", config_path=conf, config_name=config_name)(task)()
    return max(codes, default=0)
