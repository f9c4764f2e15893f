"""One job: from a composed config to an exit code and, where it went wrong, one line that says why."""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from graysam.config.composing import to_plain
from graysam.config.labels import give_name
from graysam.system.terminal import BAD_INPUT, FAILED, one_line

Function = Callable[[dict[str, Any]], int]  # of a command: plain containers to an exit code

STOPPED = (130, 143)  # exit codes of a run that Ctrl-C or SIGTERM ended


def attempt(function: Function, config: dict[str, Any]) -> tuple[int, str]:
    """Call a command's function and return its exit code and, for an input that it refuses, the reason.

    The reason is printed on the standard error, too. Exceptions that nobody expects pass through.
    """
    try:
        return function(config), ""
    except (ValueError, OSError) as error:
        code, reason = BAD_INPUT, one_line(error)
    except FloatingPointError as error:  # a diverged training: no bad input, but no traceback's use either
        code, reason = FAILED, one_line(error)
    print(f"error: {reason}", file=sys.stderr)
    return code, reason


@dataclass(frozen=True)
class Outcome:
    """How a job of a sweep ended: its run directory, its exit code, and a line that says why where it failed."""

    run_dir: str
    code: int
    reason: str = ""


class Stopped(BaseException):
    """Ctrl-C or SIGTERM ended a job, and so the sweep; no Exception, which Hydra would take for a failed job."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def carry_out(
    config: DictConfig,
    *,
    function: Function,
    keys: Collection[str],
    total: int,
    parent: int,
    outcomes: dict[str, Outcome],
) -> Outcome:
    """Carry out one job inside Hydra's launcher; whatever fails is its outcome, and the sweep goes on.

    Args:
        config: the job's.
        function: the command's.
        keys: what the job's label shows.
        total: how many jobs the sweep has.
        parent: id of the process that launched the sweep; the job may run in another one, on another machine.
        outcomes: gets the outcome where the job runs in that process.

    Raises:
        Stopped: the job was stopped, and the sweep that runs in this process with it.
    """
    hydra = HydraConfig.get()
    give_name(config, hydra.overrides.task, keys)
    plain = to_plain(config)
    print(f"\nrun {hydra.job.num + 1} of {total}: {plain['name']}, seed {plain['seed']}", flush=True)
    try:
        code, reason = attempt(function, plain)
    except Exception as error:
        traceback.print_exc()
        code, reason = FAILED, f"{type(error).__name__}: {one_line(error)}"
    except SystemExit as error:
        code, reason = (error.code, "") if isinstance(error.code, int) else (FAILED, str(error.code or ""))
    except KeyboardInterrupt:
        code, reason = STOPPED[0], ""
    outcome = Outcome(os.path.normpath(plain["run_dir"]), code, reason)
    outcomes[outcome.run_dir] = outcome
    gc.collect()  # a model and its trainer hold each other, and the next job needs the memory
    if code in STOPPED and os.getpid() == parent:
        raise Stopped(code)
    return outcome
