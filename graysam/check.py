"""Check every file of the configs without running anything: `python -m graysam.check`.

Prints each error in a line of its own and exits with 2, or one line and 0 where there is none.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import zip_longest

from graysam.system.command import command
from graysam.system.environment import check_extra, conf_dir
from graysam.system.terminal import BAD_INPUT


@command("check")
def main(argv: Sequence[str] | None = None) -> int:
    """Check every config at the top, every choice of its groups and every experiment; a grid when its sweep starts.

    The first choices of all groups are checked together, then the second ones and so on.
    """
    argparse.ArgumentParser(prog="graysam check", description=(__doc__ or "").partition(":")[0]).parse_args(argv)
    check_extra("train")
    from graysam.config.composing import compose_config
    from graysam.config.planning import check_config

    conf = conf_dir()
    errors: dict[str, str] = {}  # and the overrides at which each appeared first
    for top in sorted(path.stem for path in conf.glob("*.yaml")):
        text = (conf / f"{top}.yaml").read_text(encoding="utf-8")
        choices = {
            folder.name: [f"{folder.name}={path.stem}" for path in sorted(folder.glob("*.yaml"))]
            for folder in sorted(conf.iterdir())
            if f"- {folder.name}:" in text
        }
        experiments = choices.pop("experiment", [])
        for given in [(), *zip_longest(*choices.values()), *((line,) for line in experiments)]:
            overrides = [line for line in given if line]
            try:
                check_config(compose_config(top, overrides, conf), top)
            except ValueError as error:
                for line in str(error).splitlines():
                    errors.setdefault(line, " ".join([f"{top}.yaml", *overrides]))
    for line, place in errors.items():
        print(f"error: {place}: {line}", file=sys.stderr)
    if not errors:
        print(f"{len(list(conf.rglob('*.yaml')))} config files: no errors")
    return BAD_INPUT if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
