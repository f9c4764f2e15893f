"""Accuracy over cases: metrics files, differences by case and not by row, and every number of Table 4 in its place."""

from pathlib import Path

import pandas as pd
import pytest

from graysam.reporting.accuracy import (
    ARMS,
    METRICS,
    PAPER,
    CaseScores,
    differences_table,
    read_case_scores,
    summary_table,
    table_4,
)

HEADER = "case,modality,dsc,nsd,nsd_contour\n"


def case_scores(name: str, **by_modality: dict[str, float]) -> CaseScores:
    """Make scores of the same value in all metrics: modality -> case -> value."""
    rows = [(m, case, *[value] * 3) for m, group in by_modality.items() for case, value in group.items()]
    return CaseScores(name, pd.DataFrame(rows, columns=["modality", "case", *METRICS]).set_index(["modality", "case"]))


def scores(name: str, shift: float = 0.0) -> CaseScores:
    """Make two cases of ultrasound with 0.5 + shift and two of CT with 0.25 + shift."""
    return case_scores(name, US={"a": 0.5 + shift, "b": 0.5 + shift}, CT={"c": 0.25 + shift, "d": 0.25 + shift})


def test_a_metrics_file_is_read_and_nan_left_out(tmp_path: Path) -> None:
    path = tmp_path / "model_int8.csv"
    path.write_text(HEADER + "a,US,0.5,0.25,0.125\nb,CT,0.75,nan,nan\nc,Zebra,1,1,1\n")
    found = read_case_scores(path)
    nsd = found.estimates("nsd")
    assert found.name == "model_int8" and list(nsd) == ["CT", "US", "Zebra", "macro"], "the paper's order"
    assert nsd["CT"].n == 0 and nsd["macro"].mean == pytest.approx(0.625)
    path.write_text(HEADER)
    assert read_case_scores(path).estimates("dsc")["macro"].n == 0


def test_differences_are_by_case() -> None:
    first = case_scores("a", CT={"x": 0.1, "y": 0.5, "only_here": 0.0}, US={"z": 0.9})
    second = case_scores("b", CT={"y": 0.6, "x": 0.4, "only_there": 1.0}, US={"z": 0.8}, MR={"w": 1.0})
    found = second.minus(first).estimates("dsc")
    assert list(found) == ["CT", "US", "macro"]
    assert (found["CT"].mean, found["CT"].n) == (pytest.approx(0.2), 2)
    assert (found["CT"].low, found["CT"].high) == pytest.approx((0.1, 0.3))
    assert found["macro"].mean == pytest.approx((0.2 - 0.1) / 2)
    table = differences_table([scores("lite_medsam_fp32"), scores("graysam_l0_int8", -0.125)], "nsd")
    assert list(table.columns) == ["modality", "n", "quantized proposed"]
    assert table.rows[-1] == ["macro", "4", "-12.50 (-12.50 to -12.50)"]


def test_the_papers_averages_are_those_of_its_rows() -> None:
    """The transcription adds up; the paper's own rounding allows a hundredth."""
    paper = pd.read_csv(PAPER)
    assert list(paper.columns) == ["metric", "modality", *ARMS] and set(paper["metric"]) == {"dsc", "nsd"}
    for _, table in paper.groupby("metric"):
        rows = table.set_index("modality")[list(ARMS)]
        assert len(rows) == 10
        assert rows.drop("macro").mean().tolist() == pytest.approx(rows.loc["macro"].tolist(), abs=0.011)


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
    unknown = table_4([case_scores("other", Zebra={"a": 1.0})], "nsd").rows
    assert unknown[0] == ["Zebra", "1", "100.00", *["-"] * 4] and unknown[1][-1] == "98.28"


def test_a_cell_with_fewer_cases_has_its_number() -> None:
    table = table_4([scores("lite_medsam_fp32"), case_scores("graysam_l0_fp32", US={"a": 0.5})], "nsd_contour")
    assert list(table.columns) == ["modality", "n", "baseline", "proposed"], "the paper has no contour NSD"
    assert table.rows == [
        ["CT", "2", "25.00 (25.00 to 25.00)", "-"],
        ["US", "2", "50.00 (50.00 to 50.00)", "50.00, n = 1"],
        ["macro", "4", "37.50 (37.50 to 37.50)", "50.00, n = 1"],
    ]


def test_the_summary_holds_both_metrics_of_every_arm() -> None:
    given = [scores("graysam_l0_int8", 0.125), scores("lite_medsam_fp32"), scores("distilled", 0.25)]
    given[1].frame["nsd"] = [1.0, 0.5, float("nan"), float("nan")]
    table = summary_table(given)
    assert list(table.columns) == [
        "modality", "cases", "baseline (`lite_medsam_fp32`)", "quantized proposed (`graysam_l0_int8`)",
    ]  # fmt: skip
    assert table.rows == [
        ["CT", "2", "25.00 / -", "37.50 / 37.50"],
        ["US", "2", "50.00 / 75.00", "62.50 / 62.50"],
        ["macro", "4", "37.50 / 75.00, n = 2", "50.00 / 50.00"],
    ]
