"""Averages over cases: per modality, over modalities (macro), and bootstrap intervals.

This is the only macro average of the package: cases are averaged within each modality first, so that every modality
has the same weight however many cases it has.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MACRO = "macro"
Float64 = NDArray[np.float64]


def modality_means(rows: Iterable[tuple[str, ArrayLike]]) -> dict[str, Float64]:
    """Average the scores of each modality over its cases.

    Args:
        rows: (modality, scores) of each case; scores are a number or a sequence of C numbers.

    Returns:
        modality -> float64 (C,) or (), sorted by name; NaN is ignored column by column. No rows give an empty dict.
    """
    groups: dict[str, list[Any]] = {}
    for modality, scores in rows:
        groups.setdefault(modality, []).append(scores)
    return {modality: _nan_mean(groups[modality]) for modality in sorted(groups)}


def macro_average(rows: Iterable[tuple[str, ArrayLike]]) -> Float64:
    """Average over modalities the means of `modality_means`: float64 (C,) or (), NaN where there is none."""
    return _nan_mean(list(modality_means(rows).values()))


def _nan_mean(scores: ArrayLike) -> Float64:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without a number gives NaN
        return np.asarray(np.nanmean(np.asarray(scores, np.float64), axis=0))


@dataclass(frozen=True)
class Estimate:
    """A mean in [0, 1] over n cases with its 95 % bootstrap interval.

    Attributes:
        mean: NaN for no cases.
        low: lower end of the interval, NaN where no group has two cases.
        high: upper end, likewise.
        n: number of cases.
    """

    mean: float
    low: float
    high: float
    n: int

    def percent(self, sign: bool = False) -> str:
        """Format as `mean (low to high)` in per cent; the mean alone without an interval, `-` for no cases."""
        if self.n == 0:
            return "-"
        spec = "+.2f" if sign else ".2f"
        text = format(100 * self.mean, spec)
        if math.isnan(self.low):
            return text
        return f"{text} ({format(100 * self.low, spec)} to {format(100 * self.high, spec)})"


def estimate(groups: Iterable[Sequence[float]]) -> Estimate:
    """Estimate the mean of the groups' means with a percentile bootstrap over the cases; the same values give the same.

    Args:
        groups: values of each group: one group for a modality's mean, one per modality for the macro average. Cases
            are resampled within each group. Groups without values are ignored.

    Returns:
        The estimate. A group of one value cannot be resampled and enters every resample as it is; where no group has
        more, the interval is NaN. Where every group is constant, the interval is the mean itself.
    """
    values = [np.asarray(group, np.float64) for group in groups if len(group)]
    n = sum(len(group) for group in values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = float(np.mean([group.mean() for group in values]))
    resampled = [group for group in values if len(group) > 1]
    if not resampled:
        return Estimate(mean, math.nan, math.nan, n)
    if all((group == group[0]).all() for group in resampled):
        return Estimate(mean, mean, mean, n)
    from scipy.stats import bootstrap  # takes a second to import

    fixed = sum(float(group[0]) for group in values if len(group) == 1)

    def mean_of_means(*samples: Float64, axis: int) -> Float64:
        total = fixed + sum(sample.mean(axis=axis) for sample in samples)
        return np.asarray(total / len(values))

    interval = bootstrap(
        resampled, mean_of_means, method="percentile", n_resamples=10_000, batch=1_000, rng=np.random.default_rng(0)
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), n)


def estimates(groups: Mapping[str, Sequence[float]]) -> dict[str, Estimate]:
    """Estimate the mean of each modality's values, and of their macro average under the key `macro`."""
    found = {modality: estimate([values]) for modality, values in groups.items()}
    return {**found, MACRO: estimate(groups.values())}
