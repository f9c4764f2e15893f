"""Reproducibility checks: numbers against values computed by hand, the file, and the report's sections."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from graysam.data.split import Subject
from graysam.report import main as report
from graysam.reproduction.checks import (
    CHECKS,
    NEED_TRAIN,
    compare_surfaces,
    disc,
    measure_diffusion,
    run_checks,
    score_shifted_disc,
)
from graysam.reproduction.splits import count_leaks, count_split, read_patients
from tests.support.commands import run_without, write_case

ROOT = Path(__file__).parents[2]
TORCH = {"torch", "torchvision", "timm", "lightning", "hydra", "omegaconf", "webdataset", "pycocotools"}


# ------------------------------------------------------------------ pictures
def test_a_shifted_disc_by_closed_forms() -> None:
    radius, shift = 40, 8
    found = score_shifted_disc(shift)
    lens = 2 * radius**2 * math.acos(shift / (2 * radius)) - shift / 2 * math.sqrt(4 * radius**2 - shift**2)
    assert found.dsc == pytest.approx(lens / (math.pi * radius**2), abs=0.01)
    # The circles are |shift cos(angle)| apart: within 2 px where that is small, and pixels add up to one more.
    assert 2 / math.pi * math.asin(2 / shift) < found.nsd_contour < 2 / math.pi * math.asin(3 / shift)


def test_officially_every_foreground_pixel_is_surface() -> None:
    """The official NSD is the share of the discs' pixels that lie within 2 px of the other disc's pixels."""
    true, moved = (disc(shift, 201).astype(bool) for shift in (0, 16))
    near = [mask & (distance_transform_edt(~other) <= 2) for mask, other in ((true, moved), (moved, true))]
    share = sum(found.sum() for found in near) / (true.sum() + moved.sum())
    assert score_shifted_disc(16).nsd == pytest.approx(share, abs=0.01)
    found = compare_surfaces()
    assert found.rows[0] == [0, 100, 100, 100]
    _, dsc, official, contour = found.rows[3]
    assert official > 90 > dsc > 80 and contour < 25
    assert all(f"{value:.1f} %" in found.summary for value in (dsc, official, contour))


def test_the_released_diffusion_is_the_blur_and_the_real_one_is_not() -> None:
    """One step of a 5-point blur keeps 1 - 2 gamma of an edge and the root of (1 - 4 gamma)^2 + 4 gamma^2 of noise."""
    found = measure_diffusion()
    (_, edge, noise), (_, plain_edge, plain_noise), (_, real_edge, real_noise) = found.rows
    assert edge == pytest.approx(80, abs=1) and noise == pytest.approx(100 * math.sqrt(0.36 + 0.04), abs=2)
    assert (plain_edge, plain_noise) == pytest.approx((edge, noise), abs=1)
    assert real_edge > 95 and real_noise < 30
    assert "below 0.9975" in found.summary and "at most 1 grey level," in found.summary


# ------------------------------------------------------------------ splits
def test_splits_by_hand() -> None:
    one = {"CT_a": {Subject("a", "p"): 10}}
    assert count_split(one, 0.1, by_slice=True) == (1, 1)
    assert count_split(one, 0.1, by_slice=False) == (0, 0), "a group's last patient is never held out"
    flat = {"CT_a": {Subject("a", str(number)): 1 for number in range(10)}}
    assert count_split(flat, 0.1, by_slice=True) == count_split(flat, 0.1, by_slice=False) == (1, 0)
    both = {group: {Subject("a", str(number)): 5 for number in range(10)} for group in ("CT_a", "MR_a")}
    assert count_split(both, 0.1, by_slice=False) == (1, 0), "a patient is on one side in all groups"


def test_slices_with_objects_are_counted_by_patient(tmp_path: Path) -> None:
    gts = np.zeros((4, 8, 8), np.uint8)
    gts[1:3, 2:5, 2:5] = 1
    for name in ("CT_Set_p1", "MR_Set_p1", "CT_Set_p2"):
        write_case(tmp_path / name[:2], name, imgs=np.zeros_like(gts), gts=gts, spacing=np.ones(3))
    write_case(tmp_path, "CT_Set_empty", imgs=gts, gts=np.zeros_like(gts))
    write_case(tmp_path, "US_Set_image", imgs=gts[1], gts=gts[1])
    p1, p2 = Subject("Set", "p1"), Subject("Set", "p2")
    assert read_patients(tmp_path) == {"CT_Set": {p1: 2, p2: 2}, "MR_Set": {p1: 2}}
    assert "The set has 2 patients and 6 slices" in count_leaks(tmp_path).summary
    found = count_leaks(None)
    assert "A synthetic set has 100 patients and 4000 slices. Holding out 1 % of the slices" in found.summary
    assert found.rows[1] == ("patient", 1, 1, 0) and found.rows[3] == ("patient", 10, 10, 0)
    assert found.rows[0][2] == found.rows[0][3] and 30 < found.rows[0][3] <= 40, "40 of 4000 slices, few of one patient"


# ------------------------------------------------------------------ networks
def test_networks_by_the_papers_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from graysam.reproduction import networks

    touched = networks.count_quantized_layers().rows
    assert [row[:3] for row in touched] == [
        ["LiteMedSAM", "40 of 69", "47 of 52"],
        ["graysam L0", "0 of 69", "47 of 52"],
    ]
    assert touched[1][3] == pytest.approx(100 * 3_965_952 / 34_792_784)
    gmac, batch = networks.count_operations().rows[0][1:]
    assert batch == pytest.approx(600.1, abs=0.1) and gmac == batch / 32

    found = networks.list_models()
    rows = {row[0]: dict(zip(found.columns[1:], row[1:], strict=True)) for row in found.rows}
    parts = ("image encoder", "prompt encoder", "mask decoder", "parameters")
    assert [rows["graysam L0"][part] for part in parts] == [30_728_224, 6_220, 4_058_340, 34_792_784]
    assert [rows["LiteMedSAM"][part] for part in parts] == [5_726_740, 6_220, 4_058_340, 9_791_300]
    assert rows["graysam L1"]["parameters"] == pytest.approx(47.65e6, abs=1e4)
    assert rows["graysam L2"]["parameters"] == pytest.approx(61.33e6, abs=1e4)
    lite = rows["LiteMedSAM"]
    assert lite["encoder GMAC"] + lite["heads GMAC"] == pytest.approx(39.3, abs=0.1)
    assert lite["fp32 (MB)"] == pytest.approx(9_791_300 * 4e-6)

    gone = networks.METHODS[networks.DYNAMIC]._replace(why_unavailable=lambda: "torch 9 has none")
    monkeypatch.setitem(networks.METHODS, networks.DYNAMIC, gone)
    assert networks.count_quantized_layers().skipped == "torch 9 has none"


# ------------------------------------------------------------------ the file
def test_checks_are_deterministic_and_name_their_command(tmp_path: Path) -> None:
    target = tmp_path / "new" / "checks.json"
    arguments = ["--reproducibility-checks", "blur", "nsd", "split", "-o", str(target)]
    assert report(arguments) == 0
    first = target.read_bytes()
    checks = json.loads(first)["checks"]
    assert [one["name"] for one in checks] == ["nsd", "blur", "split"]
    assert checks[1]["command"] == "graysam report --reproducibility-checks blur"
    assert report(arguments) == 0
    assert target.read_bytes() == first


def test_without_torch_the_others_are_computed() -> None:
    code = """
from graysam.reproduction.checks import run_checks
for check in run_checks()["checks"]:
    print(check["name"], check["skipped"] or "computed", sep=": ")
"""
    done = run_without(TORCH, code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(found) == list(CHECKS)
    assert {name for name, text in found.items() if text != "computed"} == set(NEED_TRAIN)
    assert "torch" in found["macs"] and "pip install '.[train]'" in found["macs"]


def test_unusable_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown checks nds; choose from nsd, blur"):
        run_checks(["nds"])
    with pytest.raises(ValueError, match=r"--train-npz .* has no"):
        run_checks(["split"], tmp_path / "absent")


# ------------------------------------------------------------------ the report
def check(name: str, **values: Any) -> dict[str, Any]:
    given = {"summary": "It is so.", "columns": ["a", "b"], "rows": [["x", 1234567], ["y", 0.5], ["z", None]]}
    return {"name": name, "title": f"About {name}", "command": f"show {name}", "skipped": "", **given, **values}


def test_checks_have_their_sections_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skipped = check("macs", summary="", columns=(), rows=(), skipped="no torch")
    document = {"format": 1, "checks": [check("nsd"), skipped, check("models")]}
    (tmp_path / "checks.json").write_text(json.dumps(document))
    assert report([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "| x   | 1,234,567 |" in text and "| y   |      0.50 |" in text and "| z   |         - |" in text
    assert "### About nsd" in text and "## About models" in text
    assert "It is so." in text and "`show nsd`." in text and "Not computed: no torch." in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, "format 1"),
        ({"checks": [{"name": "nsd"}]}, "damaged"),
    ],
)
def test_damaged_checks_are_one_line(
    change: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checks.json"
    path.write_text(json.dumps({"format": 1, "checks": [], **change}))
    assert report([str(path)]) == 2
    error = capsys.readouterr().err
    assert reason in error and str(path) in error and len(error.splitlines()) == 1
