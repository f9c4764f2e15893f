"""Time segmentation against LiteMedSAM and DAFT's method: `python -m graysam.benchmark -o DIR --l0 FILE`.

Times the 14 cases of the paper's Table 5, or the cases of a folder, round-robin, with each competitor in a process of
its own. Writes `benchmark.json`, `benchmark.md`, `seconds.png` and, where accuracy is known, `accuracy.png`. A
competitor that fails is reported, the others continue, and the exit code is then 1; invalid arguments give exit code 2.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from graysam.benchmarking.cases import choose_cases, folder_cases, paper_cases
from graysam.benchmarking.competitors import COMPETITORS
from graysam.benchmarking.running import run
from graysam.imaging.channels import scheme_names
from graysam.imaging.zoom import load_zoom
from graysam.inference.axes import load_walk
from graysam.reporting.speed import failures, markdown, points, write_accuracy_chart, write_seconds_chart
from graysam.system.command import command
from graysam.system.environment import check_extra
from graysam.system.files import replacing, write_json_file
from graysam.system.outputs import OVERWRITE_HELP, check_output_file
from graysam.system.terminal import parse_list, report_problems

SLICES = 16  # of volumes; with it and LiteMedSAM a run takes about a quarter of an hour on two cores


@command("benchmark")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    check_extra("benchmark")
    load_zoom(arguments.zoom), load_walk(arguments.walk)  # refused before anything runs
    try:
        sources = paper_cases() if arguments.input is None else folder_cases(arguments.input)
        # Masks are scored on whole volumes only, so a folder's own cases keep all slices.
        arguments.slices = arguments.slices or (math.inf if arguments.input else SLICES)
        marked, overwrite = arguments.output / "benchmark.json", arguments.overwrite
        for name in (marked.name, "benchmark.md", "seconds.png", "accuracy.png"):
            check_output_file(arguments.output / name, '"machine": ', marked=marked, overwrite=overwrite)
        arguments.output.mkdir(parents=True, exist_ok=True)
        report = run(choose_cases(sources, arguments.cases), arguments)
        text = markdown(report)
        write_json_file(arguments.output / "benchmark.json", report.to_json())
        with replacing(arguments.output / "benchmark.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
        write_seconds_chart(report, arguments.output / "seconds.png")
        if points(report):
            write_accuracy_chart(report, arguments.output / "accuracy.png")
        print(text, end="")
    except KeyboardInterrupt:
        print("error: interrupted; nothing is written", file=sys.stderr)
        return 130  # as shells do after SIGINT
    return report_problems(failures(report))


def _pair(text: str) -> tuple[str, Path]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, Path(path)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}; required: at least 1")
    return int(text)


def _slices(text: str) -> float:
    return math.inf if text == "all" else _count(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="graysam benchmark", description="Time competitors on cases, round-robin.")
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for JSON, Markdown and charts")
    add("--input", type=Path, metavar="DIR", help="case files, or folders imgs and gts, instead of the paper's 14")
    add("--cases", type=parse_list, default=[], metavar="A,B", help="only cases whose names hold one of these words")
    add("--competitors", type=parse_list, default=[], metavar="A,B", help=f"of {', '.join(COMPETITORS)}")
    add("--l0", metavar="FILE", help="weights of the L0 rows, such as graysam_l0; without them left out")
    add("--channels", choices=scheme_names(), help="channel scheme of --l0 where the file does not name it")
    add("--exported", type=_pair, action="append", default=[], metavar="NAME=DIR", help="a competitor's exported model")
    add("--accuracy", type=_pair, action="append", default=[], metavar="NAME=CSV", help="its metrics.csv of evaluate")
    add("--threads", type=_count, default=2, help="CPU threads of each competitor (default: 2)")
    add("--zoom", default="off", metavar="off|auto|FACTOR", help="of graysam's rows (default: off)")
    add("--walk", default="slices", metavar="slices|three_axes|auto", help="of graysam's rows (default: slices)")
    add("--slices", type=_slices, metavar="N|all", help=f"that boxes need a volume (default: {SLICES}; --input: all)")
    add("--repeats", type=_count, default=7, help="most timed runs a case (default: 7)")
    add("--repeat-seconds", type=float, default=3.0, help="repeat while runs fit into so many seconds (default: 3)")
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    add("--cold", type=int, default=0, metavar="N", help="also time N processes on the smallest case")
    return parser


if __name__ == "__main__":
    sys.exit(main())
