"""Train a model: `python -m graysam.train experiment=NAME key=value ...`.

Composes the config, trains, keeps the best checkpoint by the monitored metric, and compares its quantization methods.
The same command resumes a run that was stopped. With `compare=true` it also scores the model before training and the
answer "everything inside the box".
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from graysam.system.extras import require

require("train")

from graysam.config.command import entry_point, in_sweep  # noqa: E402
from graysam.config.targets import build  # noqa: E402


def _summarize(runs: Sequence[tuple[str, int, str, str, str]]) -> str:
    from graysam.reporting.run_tables import sweep_summary  # at the end of a sweep: pandas takes a second to import

    return sweep_summary(runs)


@entry_point("train", summarize=_summarize)
def main(config: dict[str, Any]) -> int:
    """Run the composed config; a cluster's job calls it in its own process."""
    from graysam.training.run import run_training  # after the config was checked: torch takes seconds to import

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_training(config, build, in_sweep=in_sweep())


if __name__ == "__main__":
    sys.exit(main())
