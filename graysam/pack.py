"""`python -m graysam.pack`: raw cases become shards, an index and a manifest."""

from collections.abc import Sequence

from graysam.system.command import command
from graysam.system.environment import check_extra


@command("pack")
def main(_: Sequence[str] | None = None) -> int:
    """Pack a folder of cases, or the demo, and return the exit code, which is 1 when bad files were left out."""
    check_extra("train")
    from graysam.config.command import run_command
    from graysam.config.targets import build

    return run_command("pack", build)


if __name__ == "__main__":
    raise SystemExit(main())
