"""Probes in the report: every mean by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from graysam.reporting.probes import (
    Probe,
    calibration_table,
    objects_by_modality,
    read_probe,
    robustness_table,
    size_table,
)


def found(modality: str = "US", **values: Any) -> dict[str, Any]:
    numbers = {"area_share": 0.05, "predicted_iou": 0.85, "iou": 0.75, "dsc": 0.8, "changed": {"shifted": [0.6]}}
    return {"case": "a", "modality": modality, **numbers, **values}


def document(*objects: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"name": "tiny", "precision": "int8", "changes": {"shifted": [0.1]}, "objects": list(objects), **values}


@pytest.fixture
def probe(tmp_path: Path) -> Any:
    """Give a function that writes objects as a probe and reads it."""

    def make(*objects: dict[str, Any], **values: Any) -> Probe:
        (tmp_path / "probe.json").write_text(json.dumps(document(*objects, **values)))
        return read_probe(tmp_path / "probe.json")

    return make


def test_modalities_have_the_same_weight(probe: Any) -> None:
    given = probe(found(), found(), found(), found("CT", dsc=0.4, changed={"shifted": [0.2]}))
    other = probe(found(changed={"grown": [0.7]}), name="other", changes={"grown": [0.2]})
    table = robustness_table([given, other])
    assert list(table.columns) == ["box", "by", "tiny int8", "other int8"]
    assert table.rows == [
        ["grown", "0 %", "-", "80.00"],
        ["grown", "20 %", "-", "70.00"],
        ["shifted", "0 %", "60.00", "-"],
        ["shifted", "10 %", "40.00", "-"],
    ]
    assert objects_by_modality(given) == "CT 1, US 3"


def test_predicted_iou_is_compared_with_the_real_one(probe: Any) -> None:
    given = probe(
        found(),
        found(predicted_iou=0.81, iou=0.85),
        found(predicted_iou=1.04, iou=0.9),  # above 1 counts as 1
        found(predicted_iou=-0.1, iou=0.2),
    )
    rows = calibration_table([given]).rows
    assert [row[1] for row in rows] == ["1", "0", "0", "0", "2", "1", "4"]
    assert [rows[place][2:] for place in (0, 4, 5)] == [["0.00", "20.00"], ["83.00", "80.00"], ["100.00", "90.00"]]
    assert rows[-1] == ["all", "4", "error", "9.00"], "(2 * 0.03 + 0.1 + 0.2) / 4"


def test_sizes_are_shares_of_the_image(probe: Any) -> None:
    given = probe(found(area_share=0.0005, dsc=0.5), found(area_share=0.1, dsc=0.75), found(area_share=1.0, dsc=0.25))
    assert size_table([given]).rows == [
        ["0 to 0.1 %", "1", "50.00"],
        ["0.1 to 1 %", "0", "-"],
        ["1 to 10 %", "0", "-"],
        ["10 to 100 %", "2", "50.00"],
    ]


def test_a_probe_without_objects_has_no_means(probe: Any) -> None:
    given = [probe()]
    assert robustness_table(given).rows == [["shifted", "0 %", "-"], ["shifted", "10 %", "-"]]
    assert calibration_table(given).rows[-1] == ["all", "0", "error", "-"]
    assert size_table(given).rows[0] == ["0 to 0.1 %", "0", "-"] and objects_by_modality(given[0]) == "none"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"objects": [found(changed={"shifted": [0.1, 0.2]})]}, "another number of changed boxes"),
        ({"objects": [found(dsc="high")]}, "could not convert"),
        ({"objects": [{}]}, "modality' is missing"),
    ],
)
def test_damage_is_reported_with_the_file(changed: dict[str, Any], reason: str, probe: Any) -> None:
    with pytest.raises(ValueError, match=rf"probe\.json: .*{reason}"):
        probe(**changed)
