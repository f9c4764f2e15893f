"""Scoring of folders of masks: one row a case in a CSV file, and a table of the means over modalities."""

import csv
import math
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from tabulate import tabulate

from graysam.io.cases import read_gts, read_input_case, read_segs
from graysam.io.image import SpacingOrder, modality_of
from graysam.io.listing import case_path
from graysam.metrics.aggregation import macro_average, modality_means
from graysam.metrics.challenge import Absent, CaseMetrics, case_metrics
from graysam.system.files import replacing
from graysam.system.outputs import OutputFolder
from graysam.system.terminal import format_ranges, one_line

COLUMNS = ("case", "modality", *CaseMetrics._fields)
MAX_WORKERS = 61  # of a ProcessPoolExecutor on Windows


@dataclass(frozen=True)
class ScoredCase:
    """The scores of a case, or in `error` the reason why there are none (with scores: why there is no overlay).

    `notes`: of reading the image and the boxes of an overlay, see `Case`.
    `unmatched`: the labels in segs alone and those in gts alone, where there are both.
    """

    case: str
    modality: str
    metrics: CaseMetrics | None = None
    error: str = ""
    notes: tuple[str, ...] = ()
    unmatched: tuple[Sequence[int], Sequence[int]] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Settings for all cases. Folders hold NPZ files, one a case, with the same names.

    Attributes:
        absent: see `case_metrics`.
        overlay: folder for a picture of each case, drawn on its image of the folder `images`.
    """

    segs: Path
    gts: Path
    spacing_order: SpacingOrder = "zyx"
    absent: Absent = "skip"
    overlay: Path | None = None
    images: Path | None = None

    def score(self, name: str) -> ScoredCase:
        """Score the case of a name; an error becomes the case's `error`, one line."""
        case = ScoredCase(name, modality_of(name))
        overlays = None if self.overlay is None else OutputFolder(self.overlay, "--overlay")
        try:
            gts, spacing_mm = read_gts(case_path(self.gts, name), self.spacing_order)
            segs = read_segs(case_path(self.segs, name))
            metrics = case_metrics(gts, segs, spacing_mm, absent=self.absent)
            case = replace(case, metrics=metrics, unmatched=unmatched_labels(gts, segs, metrics.dsc))
            if overlays is not None and self.images is not None and case.metrics is not None:
                from graysam.imaging.drawing import draw_overlay, write_picture  # takes a second

                path = case_path(self.images, name)
                drawn = read_input_case(path)
                caption = f"{case.case}   DSC {100 * case.metrics.dsc:.2f}"
                case = replace(case, notes=drawn.notes)
                overlay = draw_overlay(drawn.image.pixels, segs, drawn.boxes, gts, caption=caption)
                write_picture(overlays.path / f"{case.case}.png", overlay)
                overlays.record(f"{case.case}.png", path)
        except (ValueError, OSError, MemoryError, cv2.error) as error:
            stale = "" if overlays is None else overlays.remove_stale(f"{case.case}.png")
            return replace(case, error=f"{'' if case.metrics is None else 'no overlay: '}{one_line(error)}{stale}")
        return case

    def score_all(self, names: Sequence[str], workers: int = 1) -> Iterator[ScoredCase]:
        """Yield the scored cases of names as they finish, from that many processes."""
        if workers == 1:
            yield from map(self.score, names)
            return
        # Spawned, not forked: OpenCV's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(workers, MAX_WORKERS), context, initializer=cv2.setNumThreads, initargs=(1,))
        try:
            pending = {pool.submit(self.score, name): name for name in names}
            for future in as_completed(pending):
                if error := future.exception():  # a killed worker ends all pending cases
                    case = pending[future]
                    reason = f"a worker process ended ({type(error).__name__}), maybe out of memory; use fewer workers"
                    yield ScoredCase(case, modality_of(case), error=reason)
                else:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def unmatched_labels(gts: NDArray[Any], segs: NDArray[Any], dsc: float) -> tuple[list[int], list[int]] | None:
    """Return the labels in segs alone and those in gts alone; None unless there are both, as with other numbers.

    `dsc` is the case's. A label that nothing matches lowers it so far that better cases need no search.
    """
    if dsc > 1 - 1 / max(1, int(gts.max(initial=0))):
        return None
    found = []
    for labels in (segs, gts):
        objects = find_objects(labels.view(np.uint8) if labels.dtype == bool else labels)
        found.append({label for label, place in enumerate(objects, start=1) if place is not None})
    alone = sorted(found[0] - found[1]), sorted(found[1] - found[0])
    return alone if all(alone) else None


def label_hints(cases: Sequence[ScoredCase]) -> list[str]:
    """Return a line for each kind of labels that do not match: masks of 0/255, and other numbers."""
    kinds: dict[str, list[ScoredCase]] = {}
    for case in cases:
        if case.unmatched is not None:
            kind = "masks of 0/255?" if [255] in case.unmatched else "labels are matched by number;"
            kinds.setdefault(kind, []).append(case)
    lines = []
    for kind, those in kinds.items():
        segs, gts = (shorten(format_ranges(alone), 60, placeholder=" ...") for alone in those[0].unmatched or ())
        alone = f"labels {segs} are in segs alone, {gts} in gts alone"
        lines.append(f"note: {len(those)} cases, first {those[0].case}: {alone}; {kind} renumber them")
    return lines


def write_metrics(path: Path, cases: Sequence[ScoredCase]) -> None:
    """Write a CSV file of `COLUMNS`, scores as fractions or nan; names that are not UTF-8 as by `printable`."""
    how: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with replacing(path) as temporary, temporary.open("w", **how) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case in cases:
            writer.writerow([case.case, case.modality, *(f"{value:.6f}" for value in case.metrics or ())])


def read_metrics(path: Path) -> list[ScoredCase]:
    """Read a file of `write_metrics`.

    Raises:
        ValueError: the file cannot be read, has other columns, a case twice, or a score that is not a number.
    """
    cases: dict[str, ScoredCase] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if tuple(header) != COLUMNS:
            raise ValueError(f"its columns are {', '.join(header)}; required: {', '.join(COLUMNS)}")
        for case, modality, *scores in rows:
            if case in cases:
                raise ValueError(f"case {case} is in it twice")
            cases[case] = ScoredCase(case, modality, CaseMetrics(*map(float, scores)))
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is not a metrics.csv of graysam.evaluate: {error}") from None
    return list(cases.values())


def format_means(cases: Sequence[ScoredCase]) -> str:
    """Format the means per modality and their macro average in per cent; n counts the cases that have a DSC."""
    scored = [(case.modality, case.metrics) for case in cases if case.metrics is not None]
    counts = Counter(modality for modality, metrics in scored if not math.isnan(metrics.dsc))
    rows = [[name, counts[name], *(100 * mean)] for name, mean in modality_means(scored).items()]
    rows.append(["macro average", counts.total(), *(100 * macro_average(scored))])
    return tabulate(rows, ("modality", "n", "DSC", "NSD", "contour NSD"), tablefmt="plain", floatfmt=".2f")
