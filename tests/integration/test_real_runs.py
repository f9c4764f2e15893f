"""The main jobs on real input, as a user runs them; minutes each, so they are marked slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graysam.metrics.aggregation import macro_average, modality_means
from graysam.reporting.evaluation import read_metrics

pytestmark = pytest.mark.slow

# DSC and official NSD (%) of the shipped int8 model on validation-box; the int8 columns move with the processor.
SHIPPED = {
    "CT": (77.08, 37.12),
    "MR": (81.01, 48.14),
    "PET": (82.27, 51.48),
    "US": (97.37, 98.32),
    "Dermoscopy": (93.83, 95.52),
    "Microscopy": (85.01, 96.29),
}
VOLUMES = ("CT", "MR", "PET")


def command(module: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"graysam.{module}", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("experiment", ["proposed", "baseline"])
def test_the_first_command_learns(tmp_path: Path, experiment: str) -> None:
    printed = command("train", f"experiment={experiment}", cwd=tmp_path)
    summary = json.loads((tmp_path / "experiments" / experiment / "seed0" / "summary.json").read_text())
    assert summary["trained"]["macro"]["dsc"] > summary["start"]["macro"]["dsc"]
    for title in ("start", "fill the box", "trained"):
        assert title in printed
        assert f"{100 * summary[title]['macro']['dsc']:.2f}" in printed


def test_the_shipped_model_reaches_its_figures(medseg_mini: Path, tmp_path: Path) -> None:
    cases = medseg_mini / "validation-box"
    command("predict", "-i", str(cases / "imgs"), "-o", "segs", "--model", "graysam_l0", cwd=tmp_path)
    command("evaluate", "-s", "segs", "-g", str(cases / "gts"), "-o", "metrics.csv", cwd=tmp_path)
    scores = [(case.modality, case.metrics) for case in read_metrics(tmp_path / "metrics.csv") if case.metrics]
    found = {modality: 100 * mean[:2] for modality, mean in modality_means(scores).items()}
    for modality, expected in SHIPPED.items():
        # Three volumes of one patient each decide little: their NSD moves by a point between processors.
        atol = 2.0 if modality in VOLUMES else 1.0
        np.testing.assert_allclose(found[modality], expected, atol=atol, err_msg=modality)
    np.testing.assert_allclose(100 * macro_average(scores)[:2], np.mean(list(SHIPPED.values()), axis=0), atol=0.3)
