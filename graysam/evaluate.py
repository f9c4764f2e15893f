"""Score masks: `python -m graysam.evaluate -s SEGS -g GTS -o metrics.csv`, DSC and NSD of each case.

Cases that cannot be scored are named and left out, and the exit code is 1; arguments that cannot be used give 2.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from graysam.io.listing import Listing, case_paths, list_cases, list_folder
from graysam.reporting.evaluation import COLUMNS, Evaluation, ScoredCase, format_means, label_hints, write_metrics
from graysam.system.command import command
from graysam.system.files import is_stream
from graysam.system.outputs import OVERWRITE_HELP, OutputFolder, check_output_file
from graysam.system.terminal import FAILED, check_at_least, progress


@command("evaluate")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    evaluation = Evaluation(
        arguments.segs, arguments.gts, arguments.spacing_order, arguments.absent, arguments.overlay, arguments.images
    )
    segs, gts = _check(evaluation, arguments)
    names = [path.stem for path in gts.files]
    results = progress(evaluation.score_all(names, min(arguments.workers, len(names))), "evaluating", len(names))
    cases = sorted(results, key=lambda case: case.case)
    scored = [case for case in cases if case.metrics is not None]
    if scored:
        print(format_means(scored), flush=True)
    sys.stderr.writelines(f"{line}\n" for line in _problems(cases, evaluation, segs, gts))
    if scored:  # last, because it may fail
        write_metrics(arguments.output, scored)
    elif arguments.output.is_file() and not is_stream(arguments.output):
        print(f"note: {arguments.output} is of an earlier run", file=sys.stderr)
    return FAILED if any(case.error for case in cases) else 0


def _check(evaluation: Evaluation, arguments: argparse.Namespace) -> tuple[Listing, Listing]:
    """Return what the folders segs and gts hold; make the folders to write to."""
    check_at_least(1, "--workers", arguments.workers)
    if (evaluation.overlay is None) != (evaluation.images is None):
        raise ValueError("--overlay DIR and --images IMGS are required together")
    images = [] if evaluation.images is None else case_paths(evaluation.images, "--images")
    if not evaluation.segs.is_dir():
        raise ValueError(f"-s {evaluation.segs} is not a directory; required: a folder of case files (.npz)")
    segs, gts = list_folder(evaluation.segs), list_cases(evaluation.gts, "-g")
    inputs = [*gts.files, *segs.files, *images]
    check_output_file(arguments.output, ",".join(COLUMNS), inputs=inputs, overwrite=arguments.overwrite)
    if evaluation.overlay is not None:
        pictures = [f"{path.stem}.png" for path in gts.files]
        OutputFolder(evaluation.overlay, "--overlay").check(pictures, inputs, overwrite=arguments.overwrite)
    for folder in filter(None, (arguments.output.parent, evaluation.overlay)):
        folder.mkdir(parents=True, exist_ok=True)
    return segs, gts


def _problems(cases: Sequence[ScoredCase], evaluation: Evaluation, segs: Listing, gts: Listing) -> list[str]:
    """Return a line for everything that is not in the means, and for overlays that could not be drawn."""
    reason = "no label in gts" if evaluation.absent == "skip" else "no label in gts, or a gap in the labels"
    nan = [case.case for case in cases if case.metrics is not None and math.isnan(case.metrics.dsc)]
    lines = [f"not scored: {case}: {reason}; nan in the CSV" for case in nan]
    names = {path.stem for path in gts.files}
    lines += [f"ignored: {path} has no gts" for path in segs.files if path.stem not in names]
    listed = {evaluation.gts: gts, evaluation.segs: segs}  # once where they are the same folder
    lines += [line.rstrip() for folder, listing in listed.items() for line in listing.describe(folder)]
    lines += [f"note: {case.case}: {note}" for case in cases for note in case.notes]
    lines += label_hints(cases)
    failed = [f"left out: {case.case}: {case.error}" for case in cases if case.metrics is None]
    undrawn = [f"{case.case}: {case.error}" for case in cases if case.metrics is not None and case.error]
    lines += [*failed, *undrawn]
    if failed:
        lines.append(f"error: {len(failed)} of {len(cases)} cases could not be scored")
    if undrawn:
        lines.append(f"error: {len(undrawn)} of {len(cases) - len(failed)} overlays could not be drawn")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graysam.evaluate", description="Score masks: DSC and NSD a case.")
    add = parser.add_argument
    add("-s", "--segs", type=Path, required=True, help="folder of predicted NPZ (segs)")
    add("-g", "--gts", type=Path, required=True, help="folder of ground-truth NPZ (gts, spacing)")
    add("-o", "--output", type=Path, required=True, help="CSV file to write, one row a case")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    orders = "order of the stored spacing (default: zyx, as in the official script)"
    add("--spacing-order", choices=("zyx", "xyz"), default="zyx", help=orders)
    gaps = "a label in neither gts nor segs: skip it (default), or give the case NaN as the official script does"
    add("--absent", choices=("skip", "official"), default="skip", help=gaps)
    add("--overlay", type=Path, metavar="DIR", help="also draw the masks into this folder")
    add("--images", type=Path, metavar="IMGS", help="folder of input NPZ (imgs, boxes), for --overlay")
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
