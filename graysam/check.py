"""Check every file of the configs without running anything: `python -m graysam.check`.

Prints each error in a line of its own and exits with 2, or one line and 0 where there is none.
"""

import argparse
import sys

from graysam.system.extras import require

require("train")

from graysam.config.planning import check_all  # noqa: E402
from graysam.system.folders import conf_dir  # noqa: E402
from graysam.system.terminal import BAD_INPUT  # noqa: E402


def main() -> int:
    """Check the configs and return the exit code."""
    argparse.ArgumentParser(prog="graysam check", description=(__doc__ or "").partition(":")[0]).parse_args()
    errors = check_all()
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if not errors:
        print(f"{len(list(conf_dir().rglob('*.yaml')))} config files: no errors")
    return BAD_INPUT if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
