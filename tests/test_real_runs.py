"""The main jobs on real input, as a user runs them; minutes each, so they are marked slow."""

import csv
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def command(module: str, *arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, "-m", f"graysam.{module}", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_quickstart_learns(tmp_path: Path) -> None:
    printed = command("train", "experiment=quickstart", cwd=tmp_path)
    summary = json.loads((tmp_path / "experiments" / "quickstart" / "seed0" / "summary.json").read_text())
    assert summary["trained"]["macro"]["dsc"] > summary["untrained"]["macro"]["dsc"]
    for title in ("untrained", "fill the box", "trained"):
        assert title in printed
        assert f"{100 * summary[title]['macro']['dsc']:.2f}" in printed


# DSC and official NSD (%) of the pilot checkpoint on validation-box, measured with other code.
PILOT = {
    "CT": (78.59, 36.92),
    "MR": (78.25, 42.06),
    "PET": (47.90, 26.61),
    "US": (97.91, 98.83),
    "Dermoscopy": (86.20, 87.90),
    "Microscopy": (79.33, 94.14),
}


def test_pilot_reaches_its_figures(pilot: Path, medseg_mini: Path, tmp_path: Path) -> None:
    cases = medseg_mini / "validation-box"
    command("predict", "-i", str(cases / "imgs"), "-o", "segs", "--model", str(pilot), "--channels", "replicate",
            cwd=tmp_path)  # fmt: skip
    command("evaluate", "-s", "segs", "-g", str(cases / "gts"), "-o", "m.csv", cwd=tmp_path)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with open(tmp_path / "m.csv", newline="") as file:
        for row in csv.DictReader(file):
            found[row["modality"]].append((100 * float(row["dsc"]), 100 * float(row["nsd"])))
    for modality, wanted in PILOT.items():
        tolerance = 1.5 if modality in ("CT", "MR", "PET") else 0.3  # a pixel in a box can grow over the slices
        np.testing.assert_allclose(np.mean(found[modality], axis=0), wanted, atol=tolerance, err_msg=modality)
