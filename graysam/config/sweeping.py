"""Run a job, or a sweep of jobs that Hydra launches: one that fails does not end the others."""

import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from graysam.config.composing import to_plain
from graysam.config.planning import Run
from graysam.system.terminal import BAD_INPUT, FAILED, one_line

Function = Callable[[dict[str, Any]], int]  # of a command: plain containers to an exit code
STOPPED = (130, 143)  # exit codes of a run that Ctrl-C or SIGTERM ended


class Stopped(BaseException):
    """Ctrl-C or SIGTERM ended a job; not an Exception, which Hydra would treat as the job's failure."""


def in_sweep() -> bool:
    """Return whether this process runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def run_job(function: Function, config: dict[str, Any]) -> tuple[int, str]:
    """Call a command's function and return its exit code and, for input that it refuses, the reason, also printed."""
    try:
        return function(config), ""
    except (ValueError, OSError) as error:
        code, reason = BAD_INPUT, one_line(error)
    except FloatingPointError as error:  # training diverged
        code, reason = FAILED, one_line(error)
    print(f"error: {reason}", file=sys.stderr)
    return code, reason


def run_sweep(config_name: str, overrides: Sequence[str], runs: list[Run], function: Function) -> int:
    """Let Hydra launch the jobs of a sweep; Hydra's folder of configs must be open.

    Args:
        config_name: of the top-level config.
        overrides: of the command line, with the grid.
        runs: as planned; those that end are replaced in place.
        function: of the command.

    Returns:
        The exit code: 0 when all jobs ended well, that of the signal when the sweep was stopped, 1 otherwise.
    """
    task = partial(_run_swept, function=function, parent=os.getpid(), runs=runs)
    folder = os.path.relpath(os.path.commonpath([os.path.dirname(os.path.abspath(run.run_dir)) for run in runs]))
    quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
    log = logging.getLogger("hydra")
    level = log.level
    log.setLevel(logging.WARNING)  # each job prints one line itself
    settings = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir='{quoted}'"]
    try:
        hydra: Any = GlobalHydra.instance().hydra
        runs[:] = [
            done.return_value for batch in hydra.multirun(config_name, task, [*settings, *overrides]) for done in batch
        ]
    except (Stopped, KeyboardInterrupt) as stop:
        print("the sweep was stopped; the same command resumes it", file=sys.stderr)
        return stop.args[0] if isinstance(stop, Stopped) else STOPPED[0]
    except Exception as error:  # the launcher's: a job's process was killed, or the queue refused it
        reason = one_line(error)[:400]
        print(f"error: {reason}; other jobs may still run: python -m graysam.report {folder}", file=sys.stderr)
        return FAILED
    finally:
        log.setLevel(level)
    return FAILED if any(run.state for run in runs) else 0


def _run_swept(config: DictConfig, *, function: Function, parent: int, runs: list[Run]) -> Run:
    """Run one job inside Hydra's launcher, in the sweep's process `parent` or in one of its own.

    Raises:
        Stopped: the job was stopped, and it runs in the sweep's process.
    """
    number = HydraConfig.get().job.num
    run = runs[number]
    config.name = run.name
    print(f"\nrun {number + 1} of {len(runs)}: {run.name}, seed {run.seed}", flush=True)
    try:
        code, reason = run_job(function, to_plain(config))
    except Exception as error:
        traceback.print_exc()
        code, reason = FAILED, f"{type(error).__name__}: {one_line(error)}"
    except SystemExit as error:
        code, reason = (error.code, "") if isinstance(error.code, int) else (FAILED, str(error.code or ""))
    except KeyboardInterrupt:
        code, reason = STOPPED[0], ""
    state = "stopped" if code in STOPPED else f"failed ({code})" if code else ""
    runs[number] = run = run._replace(state=state, reason=reason)
    gc.collect()  # a model and its trainer refer to each other, and the next job needs the memory
    if code in STOPPED and os.getpid() == parent:
        raise Stopped(code)
    return run
