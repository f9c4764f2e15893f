"""What a run of the benchmark found: one document of plain containers, and the numbers drawn from it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.contenders import PEER, RIVAL
from graysam.benchmarking.timing import Result
from graysam.io.image import modality_of

FORMAT = 1
REFERENCES = (PEER, RIVAL)  # whose seconds are divided by everybody's

Document = Mapping[str, Any]


def describe_case(case: BenchmarkCase) -> dict[str, Any]:
    """Return what tables say of a case."""
    return {
        "shape": list(case.image.shape),
        "whole_shape": list(case.whole_shape),
        "stride": case.stride,
        "objects": len(case.boxes),
        "object_slices": case.object_slices,
        "visited_slices": case.visited,
        "paper_s": None if case.paper_s is None else list(case.paper_s),
        "modality": modality_of(case.name),
        "has_masks": case.gts is not None,
    }


def as_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return results as plain containers that JSON can hold: a score that is not a number is none."""
    rows = [asdict(result) for result in results]
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in rows
    ]


def row_of(document: Document, contender: str, case: str) -> Mapping[str, Any] | None:
    """Return a contender's result on a case, None where there is none."""
    for row in document["results"]:
        if row["contender"] == contender and row["case"] == case:
            found: Mapping[str, Any] = row
            return found
    return None


def median_s(document: Document, contender: str, case: str) -> float | None:
    """Return the median of a contender's seconds on a case, None where it has none."""
    row = row_of(document, contender, case)
    return statistics.median(row["seconds"]) if row is not None and row["seconds"] else None


def ratios(document: Document, reference: str, contender: str) -> dict[str, float]:
    """Return, by case, how many times as fast as the reference a contender is, where both have times."""
    found = {}
    for case in document["cases"]:
        theirs, ours = median_s(document, reference, case), median_s(document, contender, case)
        if theirs is not None and ours is not None:
            found[case] = theirs / ours
    return found


def paper_ratios(document: Document) -> dict[str, float]:
    """Return, by case, the paper's baseline seconds over its proposed model's."""
    times = {name: case["paper_s"] for name, case in document["cases"].items() if case["paper_s"]}
    return {name: baseline / proposed for name, (baseline, proposed) in times.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return min, median, max and geometric mean of positive values; NaN throughout for none."""
    if not values:
        return dict.fromkeys(("min", "median", "max", "geometric mean"), math.nan)
    return {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "geometric mean": math.exp(statistics.fmean(math.log(value) for value in values)),
    }


def geometric_mean_s(document: Document, contender: str) -> float:
    """Return the geometric mean of a contender's median seconds over the cases; NaN where it has none."""
    seconds = [median_s(document, contender, case) for case in document["cases"]]
    return spread([value for value in seconds if value is not None])["geometric mean"]


def accuracy_is_given(document: Document) -> bool:
    """Say whether the accuracy of any contender is of other cases: given to the run, whose own have no masks."""
    scored = {row["contender"] for row in document["results"] if row["dsc"] is not None}
    return any(one.get("accuracy") and name not in scored for name, one in document["contenders"].items())


def accuracy_of(document: Document, contender: str) -> dict[str, float] | None:
    """Return macro `dsc` and `nsd` (fractions): means per modality, averaged; from the run, else as given to it.

    None where masks mean nothing or were compared with nothing.
    """
    by_modality: dict[str, list[tuple[float, float]]] = {}
    for row in document["results"]:
        if row["contender"] == contender and row["dsc"] is not None:
            by_modality.setdefault(document["cases"][row["case"]]["modality"], []).append((row["dsc"], row["nsd"]))
    if not by_modality:
        given: dict[str, float] | None = document["contenders"][contender].get("accuracy")
        return given
    means = [[statistics.fmean(column) for column in zip(*rows, strict=True)] for rows in by_modality.values()]
    dsc, nsd = (statistics.fmean(column) for column in zip(*means, strict=True))
    return {"dsc": dsc, "nsd": nsd}
