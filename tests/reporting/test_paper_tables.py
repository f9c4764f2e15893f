"""Table 4: the arms by their names, every number where it belongs."""

import pytest

from graysam.reporting.accuracy import METRICS, CaseScores
from graysam.reporting.paper_tables import ARMS, PAPER, differences_table, missing_arms, summary_table, table_4


def scores(name: str, shift: float = 0.0) -> CaseScores:
    by_modality = {"US": {"a": 0.5 + shift, "b": 0.5 + shift}, "CT": {"c": 0.25 + shift, "d": 0.25 + shift}}
    return CaseScores(name, dict.fromkeys(METRICS, by_modality))


@pytest.mark.parametrize("metric", PAPER)
def test_the_papers_averages_are_those_of_its_rows(metric: str) -> None:
    """Our transcription adds up; the paper's own rounding allows a hundredth."""
    rows = [values for name, values in PAPER[metric].items() if name != "macro"]
    assert len(rows) == 9
    for arm in range(len(ARMS)):
        assert sum(row[arm] for row in rows) / 9 == pytest.approx(PAPER[metric]["macro"][arm], abs=0.011)


def test_table_4_holds_ours_and_the_papers() -> None:
    table = table_4([scores("graysam_l0_int8", 0.125), scores("lite_medsam_fp32"), scores("distilled", 0.25)], "dsc")
    assert list(table.columns[:5]) == ["modality", "n", "baseline", "quantized proposed", "distilled"]
    assert table.columns[5:] == [f"paper: {arm}" for arm in ARMS]
    assert [row[0] for row in table.rows] == ["CT", "US", "macro"]
    assert table.rows[0] == [
        "CT", "2", "25.00 (25.00 to 25.00)", "37.50 (37.50 to 37.50)", "50.00 (50.00 to 50.00)",
        "72.47", "72.71", "84.46", "84.80",
    ]  # fmt: skip
    assert table.rows[-1][1:3] == ["4", "37.50 (37.50 to 37.50)"]


def test_a_cell_with_fewer_cases_says_so() -> None:
    less = scores("graysam_l0_fp32")
    less = CaseScores(less.name, {**less.scores, "dsc": {"US": {"a": 0.5}}})
    rows = table_4([scores("lite_medsam_fp32"), less], "dsc").rows
    assert [row[1:4] for row in rows] == [
        ["2", "25.00 (25.00 to 25.00)", "-"],
        ["2", "50.00 (50.00 to 50.00)", "50.00, n = 1"],
        ["4", "37.50 (37.50 to 37.50)", "50.00, n = 1"],
    ]


def test_the_summary_holds_both_metrics_of_every_arm() -> None:
    given = [scores("graysam_l0_int8", 0.125), scores("lite_medsam_fp32"), scores("distilled", 0.25)]
    given[1] = CaseScores("lite_medsam_fp32", {**given[1].scores, "nsd": {"US": {"a": 1.0, "b": 0.5}}})
    table = summary_table(given)
    assert list(table.columns) == [
        "modality", "cases", "baseline (`lite_medsam_fp32`)", "quantized proposed (`graysam_l0_int8`)",
    ]  # fmt: skip
    assert table.rows == [
        ["CT", "2", "25.00 / -", "37.50 / 37.50"],
        ["US", "2", "50.00 / 75.00", "62.50 / 62.50"],
        ["macro", "4", "37.50 / 75.00, n = 2", "50.00 / 50.00"],
    ]


def test_the_contour_has_no_figures_in_the_paper() -> None:
    table = table_4([scores("lite_medsam_fp32")], "nsd_contour")
    assert list(table.columns) == ["modality", "n", "baseline"]
    assert "contour NSD" in table.title


def test_differences_are_from_the_baseline() -> None:
    table = differences_table([scores("lite_medsam_fp32"), scores("graysam_l0_int8", -0.125)], "nsd")
    assert list(table.columns) == ["modality", "quantized proposed"]
    assert table.rows[-1] == ["macro", "-12.50 (-12.50 to -12.50)"]
    assert differences_table([scores("graysam_l0_int8")], "nsd").rows == []


def test_what_is_missing_is_said() -> None:
    assert missing_arms([scores(name) for name in ARMS.values()]) == []
    assert missing_arms([scores("graysam_l0_int8")])[0] == "no baseline: no metrics file lite_medsam_fp32.csv was given"
    assert [row[0] for row in table_4([], "dsc").rows] == ["macro"]
