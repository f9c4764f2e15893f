"""From the start of a process to the mask on disk: what is loaded on the way, and where the time goes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.commands import names, write_case
from tests.support.exported_models import write_tiny_exported

ROOT = Path(__file__).parents[2]
# Each takes longer to import than a case takes to segment, and none has a part in it.
HEAVY = {"torch", "lightning", "pytorch_lightning", "hydra", "omegaconf", "timm", "torchvision", "nncf", "onnx"}
HEAVY |= {"scipy", "matplotlib", "pandas", "sklearn", "tqdm", "wandb", "openvino_telemetry"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a bundle and a case to segment with it."""
    write_tiny_exported(tmp_path / "tiny")
    image = np.zeros((64, 64), np.uint8)
    image[16:32, 16:48] = 255
    write_case(tmp_path / "inputs", "2DBox_US_1", imgs=image, boxes=np.array([[8, 8, 55, 55]]))
    return tmp_path


def predict(folder: Path, *options: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, where it must succeed."""
    command = [sys.executable, *python, "-m", "graysam.predict", "-i", "inputs", "-o", "outputs", "--model", "tiny"]
    environment = {**os.environ, "GRAYSAM_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs" / "2DBox_US_1.npz", allow_pickle=False) as file:
        assert np.array_equal(np.unique(file["segs"]), [0, 1])
    return done


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the modules in a process's import times."""
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE))


def test_nothing_heavy_is_imported(folder: Path) -> None:
    done = predict(folder, python=("-X", "importtime"))
    modules = imported(done)
    assert {"numpy", "cv2", "openvino", "graysam.inference.backend"} <= modules
    assert not {module.partition(".")[0] for module in modules} & HEAVY
    parts = {module for module in modules if module.startswith("graysam.")}
    assert not parts & {"graysam.imaging.drawing", "graysam.metrics.challenge", "graysam.metrics.surface"}
    assert not {part for part in parts if part.startswith(("graysam.models", "graysam.training", "graysam.config"))}


@pytest.mark.skipif(sys.platform != "linux", reason="the container's system")
def test_the_containers_script_segments_what_is_mounted(folder: Path) -> None:
    """As the challenge calls it, by a user without a home and with a root folder that is read-only."""
    shutil.copy(ROOT / "container" / "predict.sh", folder)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        "PYTHONPATH": str(ROOT),
        "GRAYSAM_MODEL": str(folder / "tiny"),
        "HOME": "/nonexistent",
    }
    before = set(folder.iterdir())
    done = subprocess.run(
        ["sh", f"{folder}/predict.sh"], capture_output=True, text=True, cwd="/", env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert names(folder / "outputs") == ["2DBox_US_1.npz"]
    assert set(folder.iterdir()) - before == {folder / "outputs"}
