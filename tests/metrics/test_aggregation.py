"""Averages over cases and modalities, and bootstrap intervals."""

import math

import numpy as np
import pytest

from graysam.metrics.aggregation import MACRO, Estimate, estimate, estimates, macro_average, modality_means


def test_modalities_have_equal_weight_and_nan_is_ignored_column_by_column() -> None:
    rows = [("CT", (0.5, 0.4)), ("CT", (0.7, 0.6)), ("US", (1.0, math.nan)), ("US", (math.nan, math.nan))]
    means = modality_means(rows)
    assert list(means) == ["CT", "US"]
    np.testing.assert_allclose(means["CT"], (0.6, 0.5))
    np.testing.assert_allclose(means["US"], (1.0, math.nan))
    np.testing.assert_allclose(macro_average(rows), (0.8, 0.5))
    assert macro_average([("CT", 0.25), ("US", 0.75), ("US", 0.75)]) == 0.5, "single numbers"
    assert math.isnan(macro_average([("CT", math.nan)])) and math.isnan(macro_average([]))
    assert modality_means([]) == {}


def test_intervals_are_percentiles_of_resampled_means() -> None:
    """The standard error of the mean of 400 cases with a deviation of 0.1 is 0.005."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    found = estimate([values.tolist()])
    assert found.n == 400 and found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert estimate([values.tolist()]) == found, "deterministic"


def test_groups_that_cannot_be_resampled_keep_their_value() -> None:
    assert estimate([]).n == 0 and math.isnan(estimate([[]]).mean)
    single = estimate([[0.5], [1.0]])
    assert (single.mean, single.n) == (0.75, 2) and math.isnan(single.low)
    assert estimate([[0.5, 0.5], [1.0]]) == Estimate(0.75, 0.75, 0.75, 3)
    mixed = estimate([[0.0, 1.0], [1.0]])
    assert (mixed.low, mixed.high) == (0.5, 1.0), "the first group's resamples have means 0, 0.5 and 1"


def test_modalities_are_estimated_beside_their_macro_average() -> None:
    groups = {"CT": [0.0, 0.0], "US": [1.0, 1.0]}
    assert {name: found.mean for name, found in estimates(groups).items()} == {"CT": 0, "US": 1, MACRO: 0.5}


def test_estimates_are_formatted_in_per_cent() -> None:
    assert Estimate(0.5, 0.25, 0.75, 4).percent() == "50.00 (25.00 to 75.00)"
    assert Estimate(0.5, 0.25, 0.75, 4).percent(sign=True) == "+50.00 (+25.00 to +75.00)"
    assert Estimate(0.5, math.nan, math.nan, 1).percent() == "50.00"
    assert Estimate(math.nan, math.nan, math.nan, 0).percent() == "-"
