"""Probes in the report: every mean by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graysam.reporting.probes import (
    Probe,
    by_size,
    calibration,
    calibration_error,
    calibration_table,
    objects_line,
    read_probe,
    robustness,
    robustness_table,
    size_table,
)


def found(modality: str = "US", **values: Any) -> dict[str, Any]:
    numbers = {"area_share": 0.05, "predicted_iou": 0.85, "iou": 0.75, "dsc": 0.8, "changed": {"shifted": [0.6]}}
    return {"case": "a", "modality": modality, **numbers, **values}


def probe(*objects: dict[str, Any]) -> Probe:
    return Probe("tiny", "int8", {"shifted": [0.1]}, objects)


def test_modalities_weigh_alike() -> None:
    given = probe(found(), found(), found(), found("CT", dsc=0.4, changed={"shifted": [0.2]}))
    assert robustness(given) == {"shifted": [(0.0, pytest.approx(0.6)), (0.1, pytest.approx(0.4))]}
    table = robustness_table([given])
    assert table.rows == [["shifted", "0 %", "60.00"], ["shifted", "10 %", "40.00"]]
    assert list(table.columns) == ["box", "by", "tiny int8"]


def test_objects_are_counted_by_modality() -> None:
    line = objects_line([probe(found(), found(), found("CT")), replace(probe(found()), name="other"), probe()])
    assert line.startswith("Objects by modality - tiny int8: CT 1, US 2; other int8: US 1; tiny int8: none. A volume's")


def test_predicted_iou_is_held_against_the_real_one() -> None:
    given = probe(
        found(),
        found(predicted_iou=0.81, iou=0.85),
        found(predicted_iou=1.04, iou=0.9),
        found(predicted_iou=-0.1, iou=0.2),
    )
    bins = calibration(given)
    assert [n for n, _, _ in bins] == [1, 0, 0, 0, 2, 1]
    assert bins[4][1:] == (pytest.approx(0.83), pytest.approx(0.8))
    assert bins[5][1:] == (1.0, pytest.approx(0.9)), "a prediction above 1 counts as 1"
    assert bins[0][1:] == (0.0, pytest.approx(0.2))
    assert calibration_error(given) == pytest.approx((2 * 0.03 + 0.1 + 0.2) / 4)
    assert calibration_table([given]).rows[-1] == ["all", "4", "error", "9.00"]
    assert math.isnan(calibration_error(probe()))


def test_sizes_are_shares_of_the_image() -> None:
    given = probe(found(area_share=0.0005, dsc=0.5), found(area_share=0.1, dsc=0.75), found(area_share=1.0, dsc=0.25))
    assert [n for n, _ in by_size(given)] == [1, 0, 0, 2]
    assert by_size(given)[3][1] == pytest.approx(0.5)
    assert size_table([given]).rows == [
        ["0 to 0.1 %", "1", "50.00"],
        ["0.1 to 1 %", "0", "-"],
        ["1 to 10 %", "0", "-"],
        ["10 to 100 %", "2", "50.00"],
    ]


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    path.write_text(json.dumps({"name": "tiny", "kind": "int8", "changes": {"shifted": [0.1]}, "objects": [found()]}))
    assert robustness(read_probe(path)) == robustness(probe(found()))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"objects": None}, "NoneType"),
        ({"objects": [found(changed={"shifted": [0.1, 0.2]})]}, "case a has other numbers of changed boxes"),
        ({"objects": [found(dsc="high")]}, "could not convert"),
        ({"objects": [{}]}, "changed"),
        ({"changes": 3}, "items"),
    ],
)
def test_another_file_is_refused_by_name(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    path.write_text(json.dumps({"name": "a", "kind": "int8", "changes": {"shifted": [0.1]}, "objects": [], **changed}))
    with pytest.raises(ValueError, match=rf"probe\.json: .*{reason}"):
        read_probe(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"not what graysam\.probe -o writes"):
        read_probe(path)
