"""Kill a training with SIGKILL at five moments, go on each time, and hold its losses against a run never stopped.

python -m tests.scripts.kill_moments FOLDER experiment=quickstart compare=false trainer.max_epochs=4 ...

The moments are random steps, drawn from a seed, one inside a validation and one while a checkpoint is being written.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.support.metrics_files import logged, logged_in

LOSS = "train/loss"
# A line of progress for each batch says from outside where a run is.
ALWAYS = ("callbacks.progress.refresh_rate=1", "callbacks.resume.every_steps=3", "logger=csv")


@dataclass(frozen=True)
class Kill:
    """One kill: where it fell, the step it began again from, and both losses of the steps around it."""

    moment: str
    last_step: int
    stored_step: int
    loss_before: float
    loss_after: float
    expected: tuple[float, float]


def start(run_dir: Path, overrides: Sequence[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "graysam.train", *overrides, *ALWAYS, f"run_dir={run_dir}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    for line in process.stdout or ():  # noqa: UP028  # `yield from` would close the pipe with the generator
        yield line


def at_line(fits: Callable[[str], bool]) -> Callable[[subprocess.Popen[str], Path], bool]:
    """Return a wait for a line of progress; it says whether the line came before the run ended."""
    return lambda process, run_dir: any(fits(line) for line in lines(process))


def at_write(process: subprocess.Popen[str], run_dir: Path) -> bool:
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


def finish(process: subprocess.Popen[str]) -> None:
    """Let a run come to its end."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the run failed:\n{said}")


def stored_step(run_dir: Path) -> int:
    """Return the step that the next start goes on from."""
    path = run_dir / "checkpoints" / "last.ckpt"
    return int(torch.load(path, weights_only=True)["global_step"]) if path.is_file() else 0


def main(arguments: Sequence[str]) -> list[Kill]:
    """Run, kill, and return what was found."""
    folder, overrides = Path(arguments[0]), list(arguments[1:])
    whole, broken = folder / "whole", folder / "broken"
    finish(start(whole, overrides))
    expected = logged(whole, (LOSS,))[LOSS]
    steps = sorted(random.Random(0).sample(range(2, len(expected) - 2), 3))
    waits: list[tuple[str, Callable[[subprocess.Popen[str], Path], bool]]] = [
        ("first random step", at_step(steps[0], expected)),
        ("inside a validation", at_line(lambda line: "Validation" in line)),
        ("second random step", at_step(steps[1], expected)),
        ("while a checkpoint is written", at_write),
        ("third random step", at_step(steps[2], expected)),
    ]
    found = []
    for number, (moment, wait) in enumerate(waits):
        process = start(broken, overrides)
        if not wait(process, broken):
            raise SystemExit(f"the run ended before this moment: {moment}")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        losses = logged_in(broken / "metrics" / f"version_{number}").get(LOSS, {})
        found.append((moment, max(losses, default=-1), stored_step(broken)))
    finish(start(broken, overrides))
    kills = []
    for number, (moment, last, stored) in enumerate(found):
        before = logged_in(broken / "metrics" / f"version_{number}").get(LOSS, {})
        after = logged_in(broken / "metrics" / f"version_{number + 1}").get(LOSS, {})
        first = min(after, default=stored)
        pair = (expected.get(last, float("nan")), expected.get(first, float("nan")))
        nothing = float("nan")
        kills.append(Kill(moment, last, stored, before.get(last, nothing), after.get(first, nothing), pair))
    assert logged(broken, (LOSS,))[LOSS] == expected, "the losses differ from those of the run never stopped"
    return kills


def at_step(step: int, expected: dict[int, float]) -> Callable[[subprocess.Popen[str], Path], bool]:
    """Return a wait for a step, counted from the first one, of a run that may begin behind it."""

    def wait(process: subprocess.Popen[str], run_dir: Path) -> bool:
        for line in lines(process):
            if "Epoch" in line:
                versions = sorted((run_dir / "metrics").glob("version_*"), key=lambda path: int(path.name[8:]))
                losses = logged_in(versions[-1]).get(LOSS, {}) if (versions[-1] / "metrics.csv").is_file() else {}
                if max(losses, default=-1) >= step - 1:
                    return True
        return False

    return wait


if __name__ == "__main__":
    print(
        f"{'killed':<32}{'last step':>10}{'goes on at':>11}  loss before (never stopped)   loss after (never stopped)"
    )
    for kill in main(sys.argv[1:]):
        print(
            f"{kill.moment:<32}{kill.last_step:>10}{kill.stored_step:>11}  "
            f"{kill.loss_before:.6f} ({kill.expected[0]:.6f})  {kill.loss_after:.6f} ({kill.expected[1]:.6f})"
        )
    print("every step's loss is that of the run never stopped")
