"""Check every file of the configs without running anything: `python -m graysam.check`.

Prints every mistake in a line of its own and exits with 2, or one line and 0 where there is none.
"""

import argparse
import sys

from graysam.system.extras import require

require("train")

from graysam.config.validation import check_all  # noqa: E402
from graysam.system.terminal import BAD_INPUT  # noqa: E402


def main() -> int:
    """Check the configs and return the exit code."""
    argparse.ArgumentParser(prog="python -m graysam.check", description=(__doc__ or "").partition(":")[0]).parse_args()
    report = check_all()
    for problem in report.problems:
        print(f"error: {problem}", file=sys.stderr)
    if not report.problems:
        print(f"{report.experiments} experiments, {report.files} files: no problems")
    return BAD_INPUT if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
