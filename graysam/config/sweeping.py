"""Sweeps: a grid of overrides becomes one run after another, each in a run directory of its own.

Hydra expands the grid and launches the jobs, here or on a cluster. What is added: every job's `name` is followed by its
own choices, so that its run directory is its own; the whole grid is checked before anything runs; a job that fails
does not take the others with it; and the end is one line a run and the report's table.
"""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose

# The sweeper expands a grid by this very function, so that what is checked is what runs.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from graysam.config.jobs import STOPPED, Function, Outcome, Stopped, carry_out
from graysam.config.labels import give_name, swept_keys
from graysam.config.messages import first_line
from graysam.config.sources import COMPOSE_ERRORS
from graysam.reporting.runs import MACRO, TRAINED, read_run
from graysam.reporting.tables import report
from graysam.system.terminal import FAILED, one_line

BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"


def in_sweep() -> bool:
    """Return whether this process is carrying out a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def quoted(text: str) -> str:
    """Return text as a quoted value of an override."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@dataclass(frozen=True)
class Job:
    """One point of a grid: its overrides, and the run that they make."""

    overrides: str
    name: str
    seed: Any
    run_dir: str


class Sweep:
    """What a command line runs: one point or a grid of them; made, planned and run inside Hydra's context.

    in_config: whether the config itself asks for a sweep (`hydra.mode`). several: the keys with several values.

    Args:
        config_name: of the top-level config.
        overrides: the command line's.

    Raises:
        ValueError: overrides that make no grid.
    """

    def __init__(self, config_name: str, overrides: Sequence[str]) -> None:
        self.config_name, self.overrides = config_name, list(overrides)
        try:
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            given = parser.parse_overrides(self.overrides)
            self.base = self._compose([str(o.input_line) for o in given if not o.is_sweep_override()])
            self.params: dict[str, Any] = dict(self.base.hydra.sweeper.get("params") or {})
            self.of_hydra = [str(o.input_line) for o in given if o.is_hydra_override()]
            own = [str(o.input_line) for o in given if not o.is_hydra_override()]
            # An experiment's own grid goes first, so that the command line has the last word.
            parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in self.params.items()), *own])
            self.points: list[list[str]] = BasicSweeper.split_arguments(parsed, None)[0]
        except COMPOSE_ERRORS as error:
            raise ValueError(f"config: {first_line(error)}") from error
        self.in_config = self.base.hydra.mode == RunMode.MULTIRUN
        self.several = list(dict.fromkeys([*self.params, *(o.key_or_group for o in parsed if o.is_sweep_override())]))
        self.keys = swept_keys(parsed, self.params)

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return compose(self.config_name, overrides=list(overrides), return_hydra_config=True)

    def plan(self) -> list[Job]:
        """Compose every point into the run that it makes, in the order in which they run.

        Raises:
            ValueError: this command has no sweeps, the points are no one experiment's grid, or two runs would share a
                directory.
        """
        if not {"name", "seed", "run_dir"} <= set(self.base):
            raise ValueError(f"graysam.{self.config_name} runs one job at a time; leave out -m")
        if self.base.hydra.sweeper.get("_target_") != BASIC_SWEEPER:
            raise ValueError("sweeps are grids here; leave out hydra/sweeper=...")
        jobs: dict[str, Job] = {}
        for point in self.points:
            words = " ".join(point)
            try:
                config = self._compose([*self.of_hydra, *point])
                give_name(config, point, self.keys)
                job = Job(words, str(config.name), config.seed, os.path.normpath(config.run_dir))
            except COMPOSE_ERRORS as error:
                raise ValueError(f"config: {words}: {first_line(error)}") from error
            if dict(config.hydra.sweeper.params or {}) != self.params:
                raise ValueError(f"{words}: this experiment is a grid of its own; sweep over it alone")
            other = jobs.setdefault(job.run_dir, job)
            if other is not job:
                raise ValueError(
                    f"{other.overrides} | {words}: both runs would lie in {job.run_dir}; leave run_dir to the sweep, "
                    "or let it hold ${name} and ${seed}"
                )
        return list(jobs.values())

    def run(self, jobs: Sequence[Job], function: Function) -> tuple[int, dict[str, Outcome]]:
        """Let Hydra launch the jobs.

        Returns:
            An exit code: 0 when all ended well, that of the signal when the sweep was stopped, 1 otherwise. And how
            each job ended, by run directory; one that was not reached, or whose process was killed, is missing.
        """
        outcomes: dict[str, Outcome] = {}
        task = partial(
            carry_out, function=function, keys=self.keys, total=len(jobs), parent=os.getpid(), outcomes=outcomes
        )
        folder = os.path.relpath(os.path.commonpath([os.path.dirname(os.path.abspath(job.run_dir)) for job in jobs]))
        settings = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={quoted(folder)}"]
        launcher_log = logging.getLogger("hydra")
        level = launcher_log.level
        launcher_log.setLevel(logging.WARNING)  # every job says itself what it is, and shorter
        try:
            hydra: Any = GlobalHydra.instance().hydra
            for batch in hydra.multirun(self.config_name, task, [*settings, *self.overrides]):
                outcomes |= {done.return_value.run_dir: done.return_value for done in batch}
        except (Stopped, KeyboardInterrupt) as stop:
            print("the sweep was stopped; the same command goes on with it", file=sys.stderr)
            return stop.code if isinstance(stop, Stopped) else STOPPED[0], outcomes
        except Exception as error:  # the launcher's own: a job's process was killed, or the queue refused it
            said = one_line(error)[:400]
            print(f"error: {said}; the others may still run: python -m graysam.report {folder}", file=sys.stderr)
            return FAILED, outcomes
        finally:
            launcher_log.setLevel(level)
        return FAILED if any(outcome.code for outcome in outcomes.values()) else 0, outcomes


def sweep_summary(jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> str:
    """Return one line a run - name, seed, state, macro DSC and NSD, where it lies - and the report's table."""
    runs = [read_run(Path(job.run_dir)) for job in jobs]
    rows = []
    for job, run in zip(jobs, runs, strict=True):
        outcome = outcomes.get(job.run_dir)
        score = run.scores.get(TRAINED, {}).get(MACRO)
        if outcome is None:
            state = run.state if run.path.is_dir() else "not run"
        else:
            stopped = "stopped" if outcome.code in STOPPED else f"failed ({outcome.code})"
            state = stopped if outcome.code else run.state
        reason = outcome.reason if outcome is not None and outcome.reason else ""
        scores = "-" if score is None else f"{100 * score.dsc:.2f} / {100 * score.nsd:.2f}"
        rows.append((job.name, f"seed {job.seed}", state, scores, f"{job.run_dir}{f': {reason}' if reason else ''}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join([*(f"{text:<{w}}" for text, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    begun = [run for run in runs if run.path.is_dir()]
    table = ["", report(begun).markdown] if begun else [""]
    return "\n".join(["", f"{len(jobs)} runs, macro DSC / NSD (%)", *lines, *table])
