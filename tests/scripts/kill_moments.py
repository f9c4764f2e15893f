"""Kill a training with SIGKILL at five moments, resume each time, and compare its losses with a run never stopped.

python -m tests.scripts.kill_moments FOLDER experiment=proposed compare=false trainer.max_epochs=4 ...

The moments are random steps, drawn from a seed, one inside a validation and one while a checkpoint is being written.
"""

import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from tests.support.training import logged, logged_in

LOSS = "train/loss"
# The progress bar's lines, one for each batch, show from outside where a run is.
ALWAYS = ("callbacks.progress.refresh_rate=1", "callbacks.resume.every_steps=3", "logger=csv")

Process = subprocess.Popen[str]
Wait = Callable[[Process, Path], bool]  # returns whether the moment came before the run ended


class Kill(NamedTuple):
    """One kill: the last step, the step of the resumed run, both losses, and those of the run never stopped."""

    moment: str
    last_step: int
    resumed_at: int
    loss_before: float
    loss_after: float
    expected: tuple[float, float]


def start(run_dir: Path, overrides: Sequence[str]) -> Process:
    command = [sys.executable, "-m", "graysam.train", *overrides, *ALWAYS, f"run_dir={run_dir}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: Process) -> None:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed:\n{output}")


def losses_of(run_dir: Path, start_number: int) -> dict[int, float]:
    """Return the losses by step that one start of the run logged."""
    version = run_dir / "metrics" / f"version_{start_number}"
    return logged_in(version).get(LOSS, {}) if (version / "metrics.csv").is_file() else {}


def at_line(fits: Callable[[str, Path], bool]) -> Wait:
    return lambda process, run_dir: any(fits(line, run_dir) for line in iter(process.stdout.readline, ""))  # type: ignore[union-attr]


def at_step(step: int) -> Wait:
    """Wait for a step, counted from the first one, of a run that may resume behind it."""

    def reached(line: str, run_dir: Path) -> bool:
        newest = len(list((run_dir / "metrics").glob("version_*"))) - 1
        return line.startswith("Epoch") and max(losses_of(run_dir, newest), default=-1) >= step - 1

    return at_line(reached)


def at_write(process: Process, run_dir: Path) -> bool:
    """Wait until part of a checkpoint lies on the disk under its temporary name."""
    while process.poll() is None:
        for path in (run_dir / "checkpoints").glob(".incoming-*.tmp"):
            try:
                if path.stat().st_size > 0:
                    return True
            except FileNotFoundError:
                continue
        time.sleep(0.0002)
    return False


def main(arguments: Sequence[str]) -> list[Kill]:
    """Run, kill, resume, and return what was found."""
    folder, overrides = Path(arguments[0]), list(arguments[1:])
    whole, broken = folder / "whole", folder / "broken"
    finish(start(whole, overrides))
    expected = logged(whole, (LOSS,))[LOSS]
    steps = sorted(random.Random(0).sample(range(2, len(expected) - 2), 3))
    waits: dict[str, Wait] = {
        "first random step": at_step(steps[0]),
        "inside a validation": at_line(lambda line, _: line.startswith("Validation")),
        "second random step": at_step(steps[1]),
        "while a checkpoint is written": at_write,
        "third random step": at_step(steps[2]),
    }
    stored = []
    for moment, wait in waits.items():
        process = start(broken, overrides)
        if not wait(process, broken):
            raise SystemExit(f"the run ended before this moment: {moment}")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        last = broken / "checkpoints" / "last.ckpt"
        stored.append(int(torch.load(last, weights_only=True)["global_step"]) if last.is_file() else 0)
    finish(start(broken, overrides))
    kills = []
    for number, moment in enumerate(waits):
        before, after = losses_of(broken, number), losses_of(broken, number + 1)
        steps = [max(before, default=-1), min(after, default=stored[number])]
        losses = [part.get(step, math.nan) for part, step in zip((before, after), steps, strict=True)]
        kills.append(Kill(moment, steps[0], stored[number], *losses, tuple(expected.get(s, math.nan) for s in steps)))
    assert logged(broken, (LOSS,))[LOSS] == expected, "the losses differ from those of the run never stopped"
    return kills


if __name__ == "__main__":
    print(f"{'killed':<32}{'last step':>10}{'resumed at':>11}  losses (never stopped) of the last step and the next")
    for kill in main(sys.argv[1:]):
        pairs = zip((kill.loss_before, kill.loss_after), kill.expected, strict=True)
        losses = "  ".join(f"{loss:.6f} ({never_stopped:.6f})" for loss, never_stopped in pairs)
        print(f"{kill.moment:<32}{kill.last_step:>10}{kill.resumed_at:>11}  {losses}")
    print("every step's loss is that of the run never stopped")
