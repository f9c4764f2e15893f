"""Train a model: `python -m graysam.train experiment=NAME key=value ...`.

Composes the config, trains, keeps the best checkpoint by the monitored metric, and compares its quantization methods.
The same command resumes a run that was stopped. With `compare=true` it also scores the model before training and the
answer "everything inside the box".
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from graysam.system.command import command
from graysam.system.environment import check_extra


def _summarize(runs: Sequence[tuple[str, int, str, str, str]]) -> str:
    from graysam.reporting.runs import sweep_summary  # at the end of a sweep: pandas takes a second to import

    return sweep_summary(runs)


def _train(config: dict[str, Any]) -> int:
    from graysam.config.command import in_sweep
    from graysam.config.targets import build
    from graysam.training.run import run_training  # after the config was checked: torch takes seconds to import

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_training(config, build, in_sweep=in_sweep())


@command("train")
def main(_: Sequence[str] | None = None) -> int:
    """Train what the command line describes, and return the exit code."""
    check_extra("train")
    from graysam.config.command import run_command

    return run_command("train", _train, summarize=_summarize)


if __name__ == "__main__":
    sys.exit(main())
