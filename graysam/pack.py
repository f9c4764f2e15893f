"""`python -m graysam.pack`: raw cases become shards, an index and a manifest."""

from graysam.system.environment import require

require("train")

from graysam.config.command import run_command  # noqa: E402
from graysam.config.targets import build  # noqa: E402


def main() -> int:
    """Pack a folder of cases, or the demo, and return the exit code, which is 1 when bad files were left out."""
    return run_command("pack", build)


if __name__ == "__main__":
    raise SystemExit(main())
