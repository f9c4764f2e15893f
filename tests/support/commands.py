"""What tests of the commands share: case files, a tiny model on disk, and processes without some of the packages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from graysam.system.outputs import MANIFEST

# Wraps the import system's finders, so that a package is just not found, as where it is not installed.
HIDE = """
import runpy, sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def run_without(hidden: set[str], code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code with arguments in a process of its own that finds none of the hidden packages."""
    command = [sys.executable, "-c", HIDE.format(hidden=hidden) + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def run_module_without(hidden: set[str], module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` in a process that finds none of the hidden packages."""
    code = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return run_without(hidden, code, *arguments, cwd=cwd)


def image_2d() -> np.ndarray:
    """Return a grey uint8 (128,160) image with two bright discs; `BOXES_2D` surround them."""
    rows, columns = np.ogrid[:128, :160]
    image = np.random.default_rng(0).integers(20, 50, (128, 160)).astype(np.uint8)
    image[(rows - 60) ** 2 + (columns - 50) ** 2 <= 30**2] += 150
    image[(rows - 70) ** 2 + (columns - 120) ** 2 <= 20**2] += 120
    return image


BOXES_2D = np.array([[20, 30, 80, 90], [100, 50, 140, 90]])


def write_case(folder: Path, name: str, **arrays: Any) -> Path:
    """Write an NPZ of arrays into a folder, which is made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def segs(tmp_path: Path, name: str) -> np.ndarray:
    """Return the masks of a case that a command wrote to tmp_path/out."""
    with np.load(tmp_path / "out" / f"{name}.npz", allow_pickle=False) as file:
        assert file.files == ["segs"]
        assert file["segs"].dtype == np.uint16
        return file["segs"]


def names(folder: Path) -> list[str]:
    """Return all that lies in a folder, hidden files but the manifest too; nothing where there is no folder."""
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST) if folder.is_dir() else []


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def save_tiny_model(path: Path, channels: str = "replicate", *, filled: bool = False) -> Path:
    """Save a graysam model of the real architecture and a few thousand random weights, in the path's format.

    filled: weights are the goldens' fill, which leaves none at zero or one.
    """
    import torch
    from safetensors.torch import save_file

    from graysam.imaging.channels import load_scheme, scheme_to_dict
    from graysam.models.registry import build_sam
    from graysam.models.weights import METADATA_KEY
    from tests.support.fill import fill
    from tests.support.tiny import tiny_numbers

    numbers = tiny_numbers()
    torch.manual_seed(0)
    state = build_sam(**numbers).state_dict()
    if filled:
        state = {key: fill(key, tuple(value.shape)) for key, value in state.items()}
    metadata = {"format": 1, "model": numbers, "channels": scheme_to_dict(load_scheme(channels)), "size": 256}
    if path.suffix == ".safetensors":
        save_file(state, path, metadata={METADATA_KEY: json.dumps(metadata)})
    else:
        prefixed = {f"model.{key}": value for key, value in state.items()}
        torch.save({"state_dict": prefixed, METADATA_KEY: metadata}, path)
    return path
