"""Averages over cases: per modality, over modalities (macro), and bootstrap intervals.

This is the only macro average of the package: cases are averaged within each modality first, so that every modality
has the same weight however many cases it has.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MACRO = "macro"
RESAMPLES = 10_000
CONFIDENCE = 0.95

Float64 = NDArray[np.float64]


def mean_over_cases(scores: ArrayLike) -> Float64:
    """Average scores over cases, ignoring NaN column by column.

    Args:
        scores: (N, C) scores of N cases in C columns, or (N,).

    Returns:
        float64 (C,), or (); NaN for a column without a number. NaN for no cases.
    """
    values = np.asarray(scores, np.float64)
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def modality_means(rows: Iterable[tuple[str, ArrayLike]]) -> dict[str, Float64]:
    """Average the scores of each modality over its cases.

    Args:
        rows: (modality, scores) of each case; scores are a number or a sequence of C numbers.

    Returns:
        modality -> float64 (C,) or (), sorted by name; NaN is ignored column by column. No rows give an empty dict.
    """
    groups: dict[str, list[NDArray[np.float64]]] = {}
    for modality, scores in rows:
        groups.setdefault(modality, []).append(np.asarray(scores, np.float64))
    return {modality: mean_over_cases(np.stack(groups[modality])) for modality in sorted(groups)}


def macro_average(rows: Iterable[tuple[str, ArrayLike]]) -> Float64:
    """Average over modalities the means of `modality_means`; NaN where there is nothing to average."""
    return mean_over_cases(np.array(list(modality_means(rows).values())))


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


def estimate(groups: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Estimate the mean of the groups' means with a percentile bootstrap over the cases (`scipy.stats.bootstrap`).

    Args:
        groups: values of each group: one group for a modality's mean, one per modality for the macro average. Cases
            are resampled within each group. Groups without values are ignored.
        seed: of the resampling; the same values and seed give the same interval.

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
        resampled,
        mean_of_means,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        batch=1_000,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), n)


def estimates(
    groups: Mapping[str, Sequence[float]], *, over: Collection[str] = (), seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the mean of each modality, and of their macro average under the key `macro`.

    Args:
        groups: modality -> values of its cases.
        over: modalities that the macro average is taken over; empty for all of them.
        seed: of the resampling.
    """
    chosen = [values for modality, values in groups.items() if not over or modality in over]
    return {
        **{modality: estimate([values], seed=seed) for modality, values in groups.items()},
        MACRO: estimate(chosen, seed=seed),
    }
