"""Accuracy over cases: means and intervals against closed forms, pairs by case and not by place."""

import math
from pathlib import Path

import numpy as np
import pytest

from graysam.reporting.accuracy import CaseScores, estimate, estimates, paired_differences, read_case_scores

HEADER = "case,modality,dsc,nsd,nsd_contour\n"


def scores(name: str, **by_modality: dict[str, float]) -> CaseScores:
    return CaseScores(name, dict.fromkeys(("dsc", "nsd", "nsd_contour"), by_modality))


def test_an_interval_is_that_of_the_resampled_mean() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.1, 400)
    found = estimate([values])
    error = values.std() / 20  # the bootstrap's standard error of a mean is the plain standard deviation over root n
    assert found.mean == pytest.approx(values.mean()) and found.n == 400
    assert (found.high - found.mean, found.mean - found.low) == pytest.approx((1.96 * error, 1.96 * error), rel=0.05)
    assert estimate([values]) == found, "the same values, the same interval"


def test_two_values_give_their_range() -> None:
    """The mean of two draws from {0, 1} is 0 or 1 in a quarter of all cases each, so 95 % need both."""
    assert estimate([[0.0, 1.0]]) == estimate([[0.0, 1.0]])
    found = estimate([[0.0, 1.0]])
    assert (found.mean, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)


def test_the_macro_average_weighs_modalities_alike_and_resamples_within_each() -> None:
    many, few = [0.9] * 100, [0.2, 0.4]
    found = estimate([many, few])
    assert found.mean == pytest.approx((0.9 + 0.3) / 2) and found.n == 102
    assert (found.low, found.high) == pytest.approx((0.55, 0.65)), "only the few vary, and by their half"


def test_one_case_has_a_mean_and_no_interval() -> None:
    found = estimate([[0.5]])
    assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.high)
    assert found.percent() == "50.00"
    found = estimate([[0.5], [0.1, 0.2]])
    assert (found.mean, found.low, found.high) == pytest.approx((0.325, 0.3, 0.35)), "what cannot vary does not"
    assert estimate([]).n == estimate([[]]).n == 0 and estimate([]).percent() == "-"
    assert estimate([[], [0.5, 0.5]]).percent() == "50.00 (50.00 to 50.00)", "an empty modality has no say"
    assert estimate([[-0.01, -0.01]]).percent(sign=True) == "-1.00 (-1.00 to -1.00)"


def test_pairs_are_made_by_case() -> None:
    first = scores("a", CT={"x": 0.1, "y": 0.5, "only_here": 0.0}, US={"z": 0.9})
    second = scores("b", CT={"y": 0.6, "x": 0.4, "only_there": 1.0}, US={"z": 0.8}, MR={"w": 1.0})
    found = paired_differences(first, second, "dsc")
    assert list(found) == ["CT", "US", "macro"]
    assert (found["CT"].mean, found["CT"].n) == (pytest.approx(0.2), 2)
    assert (found["CT"].low, found["CT"].high) == pytest.approx((0.1, 0.3))
    assert found["macro"].mean == pytest.approx((0.2 - 0.1) / 2)


def test_a_metrics_file_is_read_and_nan_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model_int8.csv"
    path.write_text(HEADER + "a,US,0.5,0.25,0.125\nb,CT,0.75,nan,nan\nc,Zebra,1,1,1\n")
    found = read_case_scores(path)
    assert found.name == "model_int8" and found.modalities == ["CT", "US", "Zebra"]
    assert found.scores["dsc"] == {"US": {"a": 0.5}, "CT": {"b": 0.75}, "Zebra": {"c": 1.0}}
    assert found.scores["nsd"]["CT"] == {}
    assert estimates(found, "nsd")["CT"].n == 0 and estimates(found, "nsd")["macro"].mean == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("case,modality,dsc\na,US,1\n", "required: what graysam.evaluate -o writes"),
        (HEADER + "a,US,1,1,1\na,US,1,1,1\n", "case a stands in it twice"),
        (HEADER + "a,US,high,1,1\n", "could not convert"),
        (HEADER + "a,US\n", "float"),
        ("", "required: what graysam.evaluate -o writes"),
    ],
)
def test_another_file_is_refused_by_name(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"m\.csv: .*{reason}"):
        read_case_scores(path)
    with pytest.raises(ValueError, match=r"absent\.csv"):
        read_case_scores(tmp_path / "absent.csv")
