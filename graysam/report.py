"""`python -m graysam.report RUNS...`: run directories become one table, mean and spread over seeds."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from graysam.files import replacing
from graysam.reporting.runs import find_runs, read_run
from graysam.reporting.tables import report
from graysam.terminal import BAD_INPUT, FAILED, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 when a run is not in the tables, or 2 for arguments that cannot be used."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.output is not None and arguments.output.is_dir():
            raise ValueError(f"-o {arguments.output} is a folder; required: a file's name, such as report.md")
        paths = find_runs(arguments.runs)
        made = report(map(read_run, paths), modalities=arguments.modalities, kinds=arguments.kinds)
        if arguments.output is not None:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            with replacing(arguments.output) as temporary:
                temporary.write_text(made.markdown, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    print(made.markdown, end="")
    if made.left_out:
        print(f"error: {len(made.left_out)} of {len(paths)} runs are not in the table", file=sys.stderr)
    return FAILED if made.left_out else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m graysam.report", description="One table over run directories: a row a variant."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="run directories, or folders that hold some")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.md", help="also write the tables as Markdown")
    parser.add_argument("--modalities", action="store_true", help="also DSC and NSD per modality")
    parser.add_argument("--kinds", action="store_true", help="also the benchmarked kinds (benchmark.json of each run)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
