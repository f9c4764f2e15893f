"""Commands with Hydra's command line: one job, or a sweep of jobs of which one that fails does not end the others."""

import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser  # Hydra's own, so that each of its options is known here
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from graysam.config.composing import to_plain
from graysam.config.overrides import comma_hint, literal_overrides, quote
from graysam.config.planning import Run, compose_base, plan_runs
from graysam.system.environment import conf_dir
from graysam.system.terminal import BAD_INPUT, FAILED, one_line

Function = Callable[[dict[str, Any]], int]  # of a command: plain containers to an exit code
STOPPED = (130, 143)  # exit codes of a run that Ctrl-C or SIGTERM ended


def run_command(config_name: str, function: Function, summarize: Callable[[Sequence[Run]], str] | None = None) -> int:
    """Run a command with Hydra's command line and return its exit code.

    Every job's config is checked before the first job runs. Errors in configs and overrides, and a `ValueError` of the
    function, are printed to the standard error, one line each, and the exit code is 2.

    Args:
        config_name: of the top-level config.
        function: of the command, from a plain config to an exit code.
        summarize: text that a sweep (`-m`) prints after its runs; None for a command without sweeps.
    """
    options = get_args_parser().parse_args()
    config_name, conf = options.config_name or config_name, Path(options.config_path or conf_dir()).absolute()
    codes: list[int] = []

    def task(config: DictConfig) -> None:
        codes.append(_run_job(function, to_plain(config))[0])

    task.__module__ = f"graysam.{config_name}"  # Hydra takes the command's name from it
    shows = options.help or options.cfg or options.info
    try:
        overrides = literal_overrides(options.overrides)
        literal = dict(zip(options.overrides, overrides, strict=True))
        sys.argv[1:] = [literal.get(word, word) for word in sys.argv[1:]]  # Hydra reads them once more
        if options.config_dir is not None:  # `compose` takes it as an override
            overrides.insert(0, f"hydra.searchpath=[{quote(os.path.abspath(options.config_dir))}]")
        runs: list[Run] = []
        swept: list[str] = []
        if shows:  # a mistake is explained here, not by Hydra
            swept = compose_base(config_name, overrides, conf)[2]
        elif not (options.hydra_help or options.shell_completion):
            runs, swept = plan_runs(config_name, overrides, conf)
        if options.multirun and summarize is None:
            raise ValueError(f"graysam.{config_name} runs one job at a time; leave out -m")
        if swept and not options.multirun:
            remedy = "give one" if summarize is None else "add -m to run them one after another"
            raise ValueError(f"several values of {', '.join(swept)}: {remedy}{comma_hint(overrides, swept)}")
    except ValueError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return BAD_INPUT
    if summarize is not None and options.multirun and runs:
        code = _run_sweep(config_name, overrides, conf, runs, function)
        if os.environ.get("RANK", "0") == "0":  # one of the processes that run the same sweep reports
            print(summarize(runs), end="", flush=True)
        return code
    hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(task)()
    return max(codes, default=0)


def in_sweep() -> bool:
    """Return whether this process runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _run_job(function: Function, config: dict[str, Any]) -> tuple[int, str]:
    """Call a command's function and return its exit code and, for input that it refuses, the reason, also printed."""
    try:
        return function(config), ""
    except (ValueError, OSError, FloatingPointError) as error:  # the last: training diverged
        reason = one_line(error)
        print(f"error: {reason}", file=sys.stderr)
        return (FAILED if isinstance(error, FloatingPointError) else BAD_INPUT), reason


def _run_sweep(config_name: str, overrides: Sequence[str], conf: Path, runs: list[Run], function: Function) -> int:
    """Let Hydra launch the jobs of a sweep, and replace the planned runs by those that ended."""
    task = partial(_run_swept, function=function, parent=os.getpid(), runs=runs)
    folder = os.path.relpath(os.path.commonpath([os.path.dirname(os.path.abspath(run.run_dir)) for run in runs]))
    settings = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={quote(folder)}"]
    logging.getLogger("hydra").setLevel(logging.WARNING)  # each job prints one line itself
    try:
        with hydra.initialize_config_dir(str(conf), job_name=config_name, version_base="1.3"):
            engine: Any = GlobalHydra.instance().hydra
            batches = engine.multirun(config_name, task, [*settings, *overrides])
        runs[:] = [done.return_value for batch in batches for done in batch]
    except KeyboardInterrupt as stop:
        print("the sweep was stopped; the same command resumes it", file=sys.stderr)
        return int(stop.args[0]) if stop.args else STOPPED[0]
    except Exception as error:  # the launcher's: a job's process was killed, or the queue refused it
        print(f"error: {one_line(error)[:400]}; other jobs may still run", file=sys.stderr)
        return FAILED
    return FAILED if any(run.state for run in runs) else 0


def _run_swept(config: DictConfig, *, function: Function, parent: int, runs: list[Run]) -> Run:
    """Run one job inside Hydra's launcher, in the sweep's process `parent` or in one of its own."""
    number = HydraConfig.get().job.num
    run = runs[number]
    config.name = run.name
    print(f"\nrun {number + 1} of {len(runs)}: {run.name}, seed {run.seed}", flush=True)
    try:
        code, reason = _run_job(function, to_plain(config))
    except Exception as error:
        traceback.print_exc()
        code, reason = FAILED, f"{type(error).__name__}: {one_line(error)}"
    except KeyboardInterrupt:
        code, reason = STOPPED[0], ""
    except SystemExit as error:  # of a library: the other jobs still run
        code, reason = (error.code, "") if isinstance(error.code, int) else (FAILED, str(error.code or ""))
    state = "stopped" if code in STOPPED else f"failed ({code})" if code else ""
    if os.getpid() == parent and len(reason) > 80:  # printed above in full
        reason = f"{reason[:76]} ..."
    runs[number] = run = run._replace(state=state, reason=reason)
    gc.collect()  # a model and its trainer refer to each other, and the next job needs the memory
    if code in STOPPED and os.getpid() == parent:
        raise KeyboardInterrupt(code)  # not an Exception, which Hydra would treat as the job's failure
    return run
