"""`python -m graysam.evaluate -s SEGS -g GTS -o metrics.csv`: scores masks, one CSV row a case."""

import argparse
import csv
import math
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from graysam.imaging.drawing import write_overlay
from graysam.io.cases import SpacingOrder, read_gts, read_input_case, read_segs
from graysam.io.image import modality_of
from graysam.metrics.challenge import Absent, CaseMetrics, case_metrics, macro_average, modality_means
from graysam.system.files import replacing
from graysam.system.terminal import BAD_INPUT, FAILED, one_line, progress


@dataclass(frozen=True)
class Scored:
    """One case's outcome: scores, or in `error` why there are none (with scores: why there is no overlay)."""

    case: str
    metrics: CaseMetrics | None = None
    error: str = ""

    @property
    def modality(self) -> str:
        """The case name's modality, `unknown` where it has none."""
        return modality_of(self.case)


@dataclass(frozen=True)
class Settings:
    """What is the same for all cases; folders of NPZ files, one a case, of the same names."""

    segs: Path
    gts: Path
    spacing_order: SpacingOrder = "zyx"
    absent: Absent = "skip"
    overlay: Path | None = None
    images: Path | None = None


def evaluate_case(name: str, settings: Settings) -> Scored:
    """Score the case of a file name; a file that cannot be used becomes the outcome's `error`, one line."""
    case = Path(name).stem
    try:
        if not (settings.segs / name).is_file():
            return Scored(case, error=f"no segs: {settings.segs / name} is missing; run predict on this case")
        gts, spacing_mm = read_gts(settings.gts / name, settings.spacing_order)
        segs = read_segs(settings.segs / name)
        metrics = case_metrics(gts, segs, spacing_mm, absent=settings.absent)
    except (ValueError, OSError) as error:
        return Scored(case, error=one_line(error))
    except MemoryError:
        return Scored(case, error="does not fit into memory; use fewer workers or a larger machine")
    if settings.overlay is None or settings.images is None:
        return Scored(case, metrics)
    try:
        read = read_input_case(settings.images / name)
        caption = f"{case}   DSC {100 * metrics.dsc:.2f}"
        write_overlay(settings.overlay / f"{case}.png", read.image.pixels, segs, read.boxes, gts, caption=caption)
    except (ValueError, OSError, MemoryError, cv2.error) as error:
        return Scored(case, metrics, f"no overlay: {one_line(error)}")
    return Scored(case, metrics)


def evaluate_folder(names: Sequence[str], settings: Settings, workers: int = 1) -> Iterator[Scored]:
    """Score the cases of file names, in processes if workers > 1; yields in the order they finish."""
    function = partial(evaluate_case, settings=settings)
    if workers == 1:
        yield from map(function, names)
        return
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
    try:
        pending = {pool.submit(function, name): name for name in names}
        for future in as_completed(pending):
            broken = future.exception()
            if broken is None:
                yield future.result()
            else:  # a killed worker takes all pending cases with it
                reason = f"a worker ended ({type(broken).__name__}), perhaps for want of memory; use fewer workers"
                yield Scored(Path(pending[future]).stem, error=reason)
    finally:
        pool.shutdown(cancel_futures=True)


def write_csv(path: Path, rows: Sequence[Scored]) -> None:
    """Write case,modality,dsc,nsd,nsd_contour (fractions, or nan) under a temporary name, renamed."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "modality", *CaseMetrics._fields])
        for row in rows:
            if row.metrics is not None:
                writer.writerow([row.case, row.modality, *(f"{value:.6f}" for value in row.metrics)])


def format_table(rows: Sequence[Scored]) -> str:
    """Return the means per modality and their macro average in percent, as plain text.

    n counts the cases whose DSC is in the mean.
    """
    scored = [(row.modality, row.metrics) for row in rows if row.metrics is not None]
    counts = Counter(modality for modality, metrics in scored if not math.isnan(metrics.dsc))
    means = [(name, counts[name], mean) for name, mean in modality_means(scored).items()]
    means.append(("macro average", counts.total(), macro_average(scored)))
    width = max(len(name) for name, _, _ in means)
    lines = [f"{'modality':{width}}  {'n':>5}  {'DSC':>7}  {'NSD':>7}  {'contour NSD':>11}"]
    for name, count, mean in means:
        dsc, nsd, contour = (f"{100 * value:.2f}" for value in mean)
        lines.append(f"{name:{width}}  {count:>5}  {dsc:>7}  {nsd:>7}  {contour:>11}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 when cases failed, or 2 for arguments and folders that cannot be used."""
    arguments = _parser().parse_args(argv)
    try:
        settings, names = _checked(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    outcomes = evaluate_folder(names, settings, min(arguments.workers, len(names)))
    rows = sorted(progress(outcomes, "evaluating", len(names)), key=lambda row: row.case)
    scored = [row for row in rows if row.metrics is not None]
    failed = [row for row in rows if row.metrics is None]
    if scored:
        try:
            write_csv(arguments.output, scored)
        except OSError as error:
            print(f"error: {arguments.output} cannot be written: {error}", file=sys.stderr)
            return BAD_INPUT
        print(format_table(scored))
    _report(scored, failed, settings, names)
    return FAILED if any(row.error for row in rows) else 0


def _report(scored: Sequence[Scored], failed: Sequence[Scored], settings: Settings, names: Sequence[str]) -> None:
    """Name on the standard error whatever is not in the means."""
    without_label = [row.case for row in scored if row.metrics is not None and row.metrics.dsc != row.metrics.dsc]
    for case in without_label:
        reason = "no label in gts" if settings.absent == "skip" else "no label in gts, or a gap in the labels"
        print(f"not scored: {case}: {reason}; nan in the CSV", file=sys.stderr)
    for name in sorted({path.name for path in settings.segs.glob("*.npz")} - set(names)):
        print(f"ignored: {settings.segs / name} has no gts", file=sys.stderr)
    for row in failed:
        print(f"left out: {row.case}: {row.error}", file=sys.stderr)
    undrawn = [row for row in scored if row.error]
    for row in undrawn:
        print(f"{row.case}: {row.error}", file=sys.stderr)
    if failed:
        print(f"error: {len(failed)} of {len(names)} cases could not be scored", file=sys.stderr)
    if undrawn:
        print(f"error: {len(undrawn)} of {len(scored)} overlays could not be drawn", file=sys.stderr)


def _checked(arguments: argparse.Namespace) -> tuple[Settings, list[str]]:
    """Return the settings and the case files' names; ValueError for what cannot be used."""
    folders = {"-s": arguments.segs, "-g": arguments.gts}
    if (arguments.overlay is None) != (arguments.images is None):
        raise ValueError("--overlay DIR and --images IMGS are required together")
    if arguments.images is not None:
        folders["--images"] = arguments.images
    for option, folder in folders.items():
        if not folder.is_dir():
            raise ValueError(f"{option} {folder} is no folder; required: a folder of case files (.npz)")
    names = sorted(path.name for path in arguments.gts.glob("*.npz"))
    if not names:
        raise ValueError(f"-g {arguments.gts} holds no .npz file; required: one a case, with gts")
    if arguments.output.is_dir():
        raise ValueError(f"-o {arguments.output} is a folder; required: a file's name, such as metrics.csv")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.overlay is not None:
        arguments.overlay.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        segs=arguments.segs,
        gts=arguments.gts,
        spacing_order=arguments.spacing_order,
        absent=arguments.absent,
        overlay=arguments.overlay,
        images=arguments.images,
    )
    return settings, names


def _workers(text: str) -> int:
    workers = int(text)
    if workers < 1:
        raise argparse.ArgumentTypeError(f"{workers} workers; required: at least 1")
    return workers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graysam.evaluate", description="Score masks: DSC and NSD a case.")
    parser.add_argument("-s", "--segs", type=Path, required=True, help="folder of predicted NPZ (segs)")
    parser.add_argument("-g", "--gts", type=Path, required=True, help="folder of ground-truth NPZ (gts, spacing)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV file to write, one row a case")
    parser.add_argument("--workers", type=_workers, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument(
        "--spacing-order",
        choices=("zyx", "xyz"),
        default="zyx",
        help="order of the stored spacing (default: zyx, as the official script takes it)",
    )
    parser.add_argument(
        "--absent",
        choices=("skip", "official"),
        default="skip",
        help="a label in neither gts nor segs: left out of the case's mean (default), or NaN as officially",
    )
    parser.add_argument("--overlay", type=Path, metavar="DIR", help="also draw the masks into this folder")
    parser.add_argument("--images", type=Path, metavar="IMGS", help="folder of input NPZ (imgs, boxes), for --overlay")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
