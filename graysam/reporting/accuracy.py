"""Accuracy over cases: metrics files of `graysam.evaluate`, bootstrap intervals, paired differences."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graysam.reporting.tables import EMPTY

METRICS = ("dsc", "nsd", "nsd_contour")
RESAMPLES = 10_000
_ORDER = ("CT", "MR", "PET", "US", "XRay", "X-Ray", "Dermoscopy", "Endoscopy", "Fundus", "Microscopy")  # the paper's


def in_papers_order(modalities: Iterable[str]) -> list[str]:
    """Return modalities in the paper's order, others by name after them."""
    return sorted(modalities, key=lambda m: (_ORDER.index(m) if m in _ORDER else len(_ORDER), m))


@dataclass(frozen=True)
class CaseScores:
    """What `graysam.evaluate` wrote of one set of masks: metric -> modality -> case -> score in [0,1].

    Scores that are not a number are left out.
    """

    name: str
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]

    @property
    def modalities(self) -> list[str]:
        """Return the modalities, see `in_papers_order`."""
        found = {modality for by_modality in self.scores.values() for modality in by_modality}
        return in_papers_order(found)

    @property
    def dsc_by_case(self) -> dict[str, float]:
        """Return the DSC of every case that has one, whatever its modality."""
        return {case: dsc for group in self.scores["dsc"].values() for case, dsc in group.items()}


@dataclass(frozen=True)
class Estimate:
    """A mean in [0,1] over n cases, and the interval that holds it in 95 % of resamplings; NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int

    def percent(self, sign: bool = False) -> str:
        """Return `mean (low to high)` in per cent, the mean alone without an interval, `-` without cases."""
        if self.n == 0:
            return EMPTY
        form = "{:+.2f}" if sign else "{:.2f}"
        text = form.format(100 * self.mean)
        if math.isnan(self.low):
            return text
        return f"{text} ({form.format(100 * self.low)} to {form.format(100 * self.high)})"


def read_case_scores(path: Path) -> CaseScores:
    """Read a file that `graysam.evaluate -o` wrote; its stem names it.

    Raises:
        ValueError: no such table, a case twice, or a score that is no number.
    """
    scores: dict[str, dict[str, dict[str, float]]] = {metric: {} for metric in METRICS}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if list(reader.fieldnames or ()) != ["case", "modality", *METRICS]:
                raise ValueError(f"its columns are {reader.fieldnames}; required: what graysam.evaluate -o writes")
            for row in reader:
                for metric in METRICS:
                    cases = scores[metric].setdefault(row["modality"], {})
                    if row["case"] in cases:
                        raise ValueError(f"case {row['case']} stands in it twice")
                    cases[row["case"]] = float(row[metric])
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from None
    known = {
        metric: {
            modality: {case: value for case, value in cases.items() if not math.isnan(value)}
            for modality, cases in by_modality.items()
        }
        for metric, by_modality in scores.items()
    }
    return CaseScores(path.stem, known)


def estimate(groups: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Return the mean of the groups' means, with its percentile bootstrap interval over the values.

    Args:
        groups: one sequence of values for a modality's mean, one for each modality for their macro average. Cases are
            drawn anew within each group, which keeps the modalities' shares. Groups without values are left out.
        seed: of the drawing, so that the same values give the same interval.

    Returns:
        The estimate; n counts all values. A group of one value says nothing about spread and stays as it is; where
        no group has more, there is no interval.
    """
    values = [np.asarray(group, float) for group in groups if len(group)]
    n = sum(len(group) for group in values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(np.mean([group.mean() for group in values]))
    if max(len(group) for group in values) < 2:
        return Estimate(mean, math.nan, math.nan, n)
    rng = np.random.default_rng(seed)
    low, high = np.percentile(np.mean([_resampled_means(group, rng) for group in values], axis=0), [2.5, 97.5])
    return Estimate(mean, float(low), float(high), n)


def _resampled_means(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray(values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1))


def estimates(scores: CaseScores, metric: str) -> dict[str, Estimate]:
    """Return a metric's estimate of each modality, and of their macro average under the key `macro`."""
    groups = {m: list(scores.scores[metric].get(m, {}).values()) for m in scores.modalities}
    return {**{m: estimate([group]) for m, group in groups.items()}, "macro": estimate(list(groups.values()))}


def paired_differences(first: CaseScores, second: CaseScores, metric: str) -> dict[str, Estimate]:
    """Return second minus first over the cases that both have, a modality and `macro`; see `estimate`."""
    groups = {}
    for modality in first.modalities:
        before, after = (s.scores[metric].get(modality, {}) for s in (first, second))
        groups[modality] = [after[case] - before[case] for case in sorted(before.keys() & after.keys())]
    return {**{m: estimate([group]) for m, group in groups.items()}, "macro": estimate(list(groups.values()))}
