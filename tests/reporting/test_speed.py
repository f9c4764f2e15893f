"""The benchmark's numbers, tables and charts, from a document written by hand."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.reporting.schemas import BenchmarkReport, ColdStart
from graysam.reporting.speed import (
    accuracy_of,
    cold_table,
    competitors_table,
    failures,
    geometric_mean,
    markdown,
    median_seconds,
    points,
    ratios_table,
    seconds_table,
    write_accuracy_chart,
    write_seconds_chart,
)


def a_case(modality: str, paper_s: list[float] | None, **more: Any) -> dict[str, Any]:
    case = {"shape": [4, 6, 6], "whole_shape": [4, 6, 6], "objects": 2, "object_slices": 8}
    return {**case, "paper_s": paper_s, "modality": modality, **more}


def a_row(competitor: str, case: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    row = {"competitor": competitor, "case": case, "seconds": seconds, "read_s": 0.25, "write_s": 0.125}
    return {**row, "peak_bytes": 100 << 20, "found": 2, **more}


def a_document() -> dict[str, Any]:
    return {
        "format": 2,
        "time": "2024-06-17T00:00:00+00:00",
        "machine": {"cpu": "A CPU", "cores": 2, "system": "Linux", "load": 0.1, "versions": {"openvino": "1"}},
        "settings": {"threads": 2, "slices": 20, "repeats": 7, "repeat_seconds": 3.0},
        "competitors": {
            name: {"title": title, "load_s": 0.5}
            for name, title in (("litemedsam", "LiteMedSAM"), ("l0_int8", "L0 int8"), ("daft", "DAFT"))
        },
        "cases": {
            "3DBox_CT_1": a_case("CT", [10.0, 2.0], stride=4, whole_shape=[16, 6, 6]),
            "2DBox_US_2": a_case("US", [0.4, 0.1]),
        },
        "results": [
            a_row("litemedsam", "3DBox_CT_1", [8.0]),
            a_row("l0_int8", "3DBox_CT_1", [0.5, 0.1, 0.4]),
            a_row("daft", "3DBox_CT_1", [1.0], peak_bytes=300 << 20),
            a_row("litemedsam", "2DBox_US_2", [1.0, 3.0]),
            a_row("l0_int8", "2DBox_US_2", [0.04]),
            a_row("daft", "2DBox_US_2", [], error="ValueError: broke"),
        ],
    }


@pytest.fixture
def report() -> BenchmarkReport:
    return BenchmarkReport.from_json(a_document())


def cells(table: Any, row: int) -> dict[str, str]:
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_a_report_survives_its_file(report: BenchmarkReport) -> None:
    assert BenchmarkReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    report.results[0].dsc = float("nan")
    assert report.to_json()["results"][0]["dsc"] is None


def test_ratios_are_medians_over_medians(report: BenchmarkReport) -> None:
    np.testing.assert_array_equal(median_seconds(report, "l0_int8"), [0.4, 0.04])
    np.testing.assert_array_equal(median_seconds(report, "daft"), [1.0, np.nan])
    assert geometric_mean(median_seconds(report, "litemedsam")) == pytest.approx(4.0)
    table = ratios_table(report, "litemedsam")
    assert [row[0] for row in table.rows[-4:]] == ["min", "median", "max", "geometric mean"]
    assert [cells(table, row)["L0 int8"] for row in range(-4, 0)] == ["20.0", "35.0", "50.0", "31.6"]
    assert [cells(table, row)["paper: proposed"] for row in range(-4, 0)] == ["4.00", "4.50", "5.00", "4.47"]
    assert "LiteMedSAM" not in table.columns
    assert [row[2] for row in ratios_table(report, "daft").rows[:2]] == ["2.50", "-"], "only where both have times"


def test_seconds_are_listed_beside_the_papers(report: BenchmarkReport) -> None:
    first = cells(seconds_table(report), 0)
    assert first["size"] == "16x6x6 1/4", "the whole volume's, and what was kept of it"
    assert (first["paper: baseline"], first["paper: proposed"]) == ("10.00", "2.00")
    assert (first["LiteMedSAM"], first["L0 int8"]) == ("8.000 (1)", "0.400 (3)")
    assert cells(seconds_table(report), 1)["DAFT"] == "-"
    for case in report.cases.values():
        case.paper_s = None  # as in one's own folder
    assert "paper" not in f"{seconds_table(report)} {ratios_table(report, 'litemedsam')}"


def test_files_and_memory_have_their_own_columns(report: BenchmarkReport) -> None:
    daft = cells(competitors_table(report), 2)
    assert (daft["cases"], daft["read s"], daft["write s"], daft["peak MiB"]) == ("1", "0.250", "0.125", "300")
    ours = cells(competitors_table(report), 1)
    assert (ours["cases"], ours["read s"], ours["DSC"]) == ("2", "0.500", "not measured")


def test_accuracy_is_averaged_over_modalities_first() -> None:
    document = a_document()
    document["cases"]["3DBox_CT_3"] = a_case("CT", None)
    for row, (dsc, nsd) in zip(document["results"][1:5:3], [(0.9, 0.8), (0.5, 0.4)], strict=True):
        row["dsc"], row["nsd"] = dsc, nsd
    document["results"].append(a_row("l0_int8", "3DBox_CT_3", [1.0], dsc=0.7, nsd=0.6))
    sentence = "they are of other cases than the seconds"
    assert sentence not in markdown(BenchmarkReport.from_json(document))
    document["competitors"]["litemedsam"]["accuracy"] = {"dsc": 0.8, "nsd": 0.7}
    report = BenchmarkReport.from_json(document)
    assert accuracy_of(report, "l0_int8") == {"dsc": pytest.approx(0.65), "nsd": pytest.approx(0.55)}
    assert accuracy_of(report, "daft") is None
    assert accuracy_of(report, "litemedsam") == {"dsc": 0.8, "nsd": 0.7} and sentence in markdown(report)


def test_everything_that_failed_is_named(report: BenchmarkReport) -> None:
    report.competitors["daft"].failed = "no exported model"
    report.errors["3DBox_CT_9"] = "no boxes"
    report.cold = [ColdStart(case="2DBox_US_2", name="l0_int8", title="L0", error="killed")]
    assert failures(report) == [
        "DAFT: no exported model",
        "2DBox_US_2, DAFT: ValueError: broke",
        "2DBox_US_2, cold, L0: killed",
        "3DBox_CT_9: no boxes",
    ]
    text = markdown(report)
    assert text.count("- failed: ") == 4 and "3DBox_CT_1. The paper's seconds are of whole volumes" in text
    assert "busy" not in text
    report.machine = {**report.machine, "load": 3.21}
    assert "busy with something else when the run began (load 3.2)" in markdown(report)


def test_cold_starts_are_compared_with_the_baseline(report: BenchmarkReport) -> None:
    report.cold = [
        ColdStart(case="2DBox_US_2", name="litemedsam", title="LiteMedSAM", seconds=[6.0, 5.0, 9.0]),
        ColdStart(case="2DBox_US_2", name="l0_int8", title="L0", seconds=[0.5]),
    ]
    assert list(cold_table(report).rows[1]) == ["2DBox_US_2", "L0", "1", *["0.500"] * 3, "12.0"]


def test_charts(report: BenchmarkReport, tmp_path: Path) -> None:
    write_seconds_chart(report, tmp_path / "seconds.png")
    assert len(np.unique(cv2.imread(str(tmp_path / "seconds.png")).reshape(-1, 3), axis=0)) > 10
    assert not points(report), "nothing is known"
    report.competitors["l0_int8"].accuracy = {"dsc": 0.9, "nsd": 0.8}
    write_accuracy_chart(report, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
