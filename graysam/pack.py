"""`python -m graysam.pack`: raw cases become shards, an index and a manifest."""

from typing import Any

from graysam.system.extras import require

require("train")

from graysam.config.command import entry_point  # noqa: E402
from graysam.config.targets import build  # noqa: E402


@entry_point("pack")
def main(config: dict[str, Any]) -> int:
    """Pack a folder of cases, or the demo; exit code 1 when bad files were left out."""
    return int(build(config))


if __name__ == "__main__":
    raise SystemExit(main())
