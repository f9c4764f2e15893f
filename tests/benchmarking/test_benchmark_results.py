"""The benchmark's numbers, tables and charts, from a document written by hand."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graysam.benchmarking.results import (
    accuracy_is_given,
    accuracy_of,
    geometric_mean_s,
    median_s,
    paper_ratios,
    ratios,
    spread,
)
from graysam.benchmarking.tables import (
    cold_table,
    contenders_table,
    encoders_table,
    failures,
    layers_table,
    markdown,
    ratios_table,
    seconds_table,
    slow_encoders,
)
from graysam.benchmarking.timing import Repeats


def a_contender(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": title,
        "engine": "bundle",
        "trained": True,
        "bundle": None,
        "accuracy": None,
        "load_s": 0.5,
        "failed": "",
        **more,
    }


def a_case(modality: str, paper_s: list[float] | None, **more: Any) -> dict[str, Any]:
    shape = [4, 6, 6]
    case = {"shape": shape, "whole_shape": shape, "stride": 1, "objects": 2, "object_slices": 8, "visited_slices": 4}
    return {**case, "paper_s": paper_s, "modality": modality, "has_masks": False, **more}


def a_row(contender: str, case: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    return {
        "contender": contender,
        "case": case,
        "seconds": seconds,
        "read_s": 0.25,
        "write_s": 0.125,
        "peak_bytes": 100 << 20,
        "peak_since_case": True,
        "found": 2,
        "differing": None,
        "foreground": None,
        "dsc": None,
        "nsd": None,
        "error": "",
        **more,
    }


@pytest.fixture
def document() -> dict[str, Any]:
    return a_document()


def a_document() -> dict[str, Any]:
    return {
        "format": 1,
        "time": "2024-06-17T00:00:00+00:00",
        "command": "python",
        "machine": {"cpu": "A CPU", "cores": 2, "system": "Linux", "load": 0.1, "versions": {"openvino": "1"}},
        "settings": {"threads": 2, "slices": 20, "repeats": 7, "repeat_seconds": 3.0},
        "contenders": {
            "litemedsam": a_contender("LiteMedSAM", engine="litemedsam"),
            "l0_int8": a_contender("L0 int8"),
            "daft": a_contender("DAFT", engine="one_box"),
        },
        "cases": {
            "3DBox_CT_1": a_case("CT", [10.0, 2.0], stride=4, whole_shape=[16, 6, 6]),
            "2DBox_US_2": a_case("US", [0.4, 0.1]),
        },
        "results": [
            a_row("litemedsam", "3DBox_CT_1", [8.0], differing=3, foreground=4000),
            a_row("l0_int8", "3DBox_CT_1", [0.5, 0.1, 0.4]),
            a_row("daft", "3DBox_CT_1", [1.0], peak_bytes=300 << 20),
            a_row("litemedsam", "2DBox_US_2", [1.0, 3.0], differing=0, foreground=1000),
            a_row("l0_int8", "2DBox_US_2", [0.04]),
            a_row("daft", "2DBox_US_2", [], error="ValueError: broke"),
        ],
        "peaks": {
            "int8": {"gops": 1000.0, "side": 1024, "ran_in": "u8"},
            "bf16": {"gops": 500.0, "side": 1024, "ran_in": "bf16"},
        },
        "profiles": {},
        "cold": [],
        "troubles": {},
    }


def test_ratios_are_medians_over_medians(document: dict[str, Any]) -> None:
    assert median_s(document, "l0_int8", "3DBox_CT_1") == 0.4
    assert ratios(document, "litemedsam", "l0_int8") == {"3DBox_CT_1": 20.0, "2DBox_US_2": 50.0}
    assert ratios(document, "daft", "l0_int8") == {"3DBox_CT_1": 2.5}, "only where both have times"
    assert paper_ratios(document) == {"3DBox_CT_1": 5.0, "2DBox_US_2": 4.0}
    assert geometric_mean_s(document, "litemedsam") == pytest.approx(4.0)


def test_the_spread_of_ratios() -> None:
    found = spread([1.0, 4.0, 16.0])
    assert found == {"min": 1.0, "median": 4.0, "max": 16.0, "geometric mean": pytest.approx(4.0)}
    assert all(np.isnan(value) for value in spread([]).values())


def cells(table: Any, row: int) -> dict[str, str]:
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_seconds_stand_beside_the_papers(document: dict[str, Any]) -> None:
    first = cells(seconds_table(document), 0)
    assert first["size"] == "16x6x6 1/4", "the whole volume's, and what was kept of it"
    assert (first["paper: baseline"], first["paper: proposed"]) == ("10.00", "2.00")
    assert (first["LiteMedSAM"], first["L0 int8"]) == ("8.000 (1)", "0.400 (3)")
    assert cells(seconds_table(document), 1)["DAFT"] == "-"


def test_ratios_end_with_their_spread(document: dict[str, Any]) -> None:
    table = ratios_table(document, "litemedsam")
    assert [row[0] for row in table.rows[-4:]] == ["min", "median", "max", "geometric mean"]
    assert [cells(table, row)["L0 int8"] for row in range(-4, 0)] == ["20.0", "35.0", "50.0", "31.6"]
    assert [cells(table, row)["paper: proposed"] for row in range(-4, 0)] == ["4.00", "4.50", "5.00", "4.47"]
    assert "LiteMedSAM" not in table.columns


def test_folders_of_ones_own_have_no_paper_columns(document: dict[str, Any]) -> None:
    for case in document["cases"].values():
        case["paper_s"] = None
    assert not any("paper" in column for column in seconds_table(document).columns)
    assert not any("paper" in column for column in ratios_table(document, "litemedsam").columns)


def test_files_and_memory_have_columns_of_their_own(document: dict[str, Any]) -> None:
    daft = cells(contenders_table(document), 2)
    assert (daft["cases"], daft["read s"], daft["write s"], daft["peak MiB"]) == ("1", "0.250", "0.125", "300")
    ours = cells(contenders_table(document), 1)
    assert (ours["cases"], ours["read s"], ours["DSC"]) == ("2", "0.500", "not measured")


def test_accuracy_is_averaged_over_modalities_first(document: dict[str, Any]) -> None:
    document["cases"]["3DBox_CT_3"] = a_case("CT", None)
    for row, (dsc, nsd) in zip(document["results"][1:5:3], [(0.9, 0.8), (0.5, 0.4)], strict=True):
        row["dsc"], row["nsd"] = dsc, nsd
    document["results"].append(a_row("l0_int8", "3DBox_CT_3", [1.0], dsc=0.7, nsd=0.6))
    assert accuracy_of(document, "l0_int8") == {"dsc": pytest.approx(0.65), "nsd": pytest.approx(0.55)}
    assert accuracy_of(document, "litemedsam") is None
    document["contenders"]["litemedsam"]["accuracy"] = {"dsc": 0.8, "nsd": 0.7}
    assert accuracy_of(document, "litemedsam") == {"dsc": 0.8, "nsd": 0.7}, "as given from elsewhere"


def test_an_accuracy_of_other_cases_is_said_to_be_one(document: dict[str, Any]) -> None:
    sentence = "they are of other cases than the seconds"
    assert not accuracy_is_given(document) and sentence not in markdown(document)
    document["contenders"]["litemedsam"]["accuracy"] = {"dsc": 0.8, "nsd": 0.7}
    assert accuracy_is_given(document) and sentence in markdown(document)
    for row in document["results"]:
        row |= {"dsc": 0.5, "nsd": 0.5}
    assert not accuracy_is_given(document), "the run's own masks count"
    for contender in document["contenders"].values():
        contender.pop("accuracy", None)
    assert sentence not in markdown(document), "as older documents are"


def test_the_text_says_what_one_must_know(document: dict[str, Any]) -> None:
    text = markdown(document)
    assert "2 threads on A CPU" in text
    assert "every n-th slice" in text
    assert "3DBox_CT_1. The paper's seconds are of whole volumes" in text
    assert "3 of 5000 foreground voxels differ, over 2 cases" in text
    assert "LiteMedSAM 100.0 %" in text
    assert "- failed: 2DBox_US_2, DAFT: ValueError: broke" in text


def test_a_busy_machine_is_told_of(document: dict[str, Any]) -> None:
    assert "busy" not in markdown(document)
    document["machine"]["load"] = 3.21
    assert "busy with something else when the run began (load 3.2)" in markdown(document)


def test_whatever_failed_is_named(document: dict[str, Any]) -> None:
    document["contenders"]["daft"]["failed"] = "no bundle"
    document["troubles"]["3DBox_CT_9"] = "no boxes"
    document["cold"] = [
        {"case": "2DBox_US_2", "name": "l0_int8", "title": "L0", "seconds": [], "parts": {}, "error": "killed"}
    ]
    assert failures(document) == [
        "DAFT: no bundle",
        "2DBox_US_2, DAFT: ValueError: broke",
        "2DBox_US_2, cold, L0: killed",
        "3DBox_CT_9: no boxes",
    ]
    assert markdown(document).count("- failed:") == 4


def test_cold_starts_are_compared_with_the_peers(document: dict[str, Any]) -> None:
    entry = {"case": "2DBox_US_2", "parts": {}, "error": ""}
    document["cold"] = [
        {**entry, "name": "litemedsam", "title": "LiteMedSAM", "seconds": [6.0, 5.0, 9.0]},
        {**entry, "name": "l0_int8", "title": "L0, with cache", "seconds": [0.5], "parts": {"imports": 0.2}},
    ]
    assert list(cold_table(document).rows[1]) == ["2DBox_US_2", "L0, with cache", "1", *["0.500"] * 3, "12.0"]
    assert "Cold: where the last run's seconds went" in markdown(document)


def test_an_encoder_far_from_the_peak_is_taken_apart(document: dict[str, Any]) -> None:
    layers = [
        {"type": "Convolution", "precision": "i8", "implementation": "brgconv", "seconds": 0.006},
        *({"type": f"T{i}", "precision": "f32", "implementation": "ref", "seconds": 0.0004} for i in range(10)),
    ]
    profile = {"seconds": 0.01, "runs": 20, "computed_in": "bf16", "gmac": 2.5, "gops": 500.0, "layers": layers}
    document["profiles"] = {"l0_int8": {**profile, "peak": "int8"}, "daft": {**profile, "peak": "bf16"}}
    assert list(encoders_table(document).rows[0]) == ["L0 int8", "int8", "10.0", "2.50", "500", "50 %"]
    assert slow_encoders(document) == ["l0_int8"], "the rivals' are not ours to explain"
    rows = layers_table(document, "l0_int8").rows
    assert list(rows[0]) == ["Convolution", "i8", "brgconv", "6.00", "60 %"]
    assert list(rows[-1]) == ["others", "-", "-", "1.20", "12 %"]
    document["profiles"]["l0_int8"]["gops"] = 900.0
    assert slow_encoders(document) == []


def test_cheap_runs_are_repeated_and_dear_ones_are_not() -> None:
    repeats = Repeats(most=7, seconds=3.0)
    assert [repeats.after(first) for first in (0.01, 1.0, 2.0, 60.0)] == [7, 3, 1, 1]


def test_charts(document: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import cv2

    from graysam.benchmarking.charts import write_accuracy_chart, write_seconds_chart

    write_seconds_chart(document, tmp_path / "seconds.png")
    assert len(np.unique(cv2.imread(str(tmp_path / "seconds.png")).reshape(-1, 3), axis=0)) > 10
    assert not write_accuracy_chart(document, tmp_path / "accuracy.png"), "nothing is known"
    assert not (tmp_path / "accuracy.png").exists()
    known = copy.deepcopy(document)
    known["contenders"]["l0_int8"]["accuracy"] = {"dsc": 0.9, "nsd": 0.8}
    assert write_accuracy_chart(known, tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").stat().st_size > 1000
