"""The scripts in `examples/`: they run without torch, and their masks lie on the object."""

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from graysam.io.cases import read_segs
from graysam.io.image import read_image
from tests.support.commands import run_without

ROOT = Path(__file__).parents[2]
EXPERIMENT_SIDE = {"torch", "torchvision", "timm", "lightning", "hydra", "omegaconf", "pandas", "webdataset"}


def run_example(name: str, picture: Path) -> np.ndarray:
    """Run an example as a script in the plain installation and return the picture it wrote."""
    code = f"runpy.run_path({str(ROOT / 'examples' / name)!r}, run_name='__main__')"
    done = run_without(EXPERIMENT_SIDE, code, str(picture), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert str(picture) in done.stdout
    written = cv2.imread(str(picture))
    assert written is not None
    return written


def test_the_image_example_segments_the_optic_disc(tmp_path: Path) -> None:
    picture = run_example("segment_image.py", tmp_path / "disc.png")
    assert picture.shape == (560, 560, 3)
    mask = read_image(tmp_path / "disc_mask.png").pixels
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    disc = ((rows - 650) / 105) ** 2 + ((columns - 217) / 97) ** 2 <= 1  # drawn by hand
    assert 2 * np.count_nonzero(disc & (mask == 1)) / (np.count_nonzero(disc) + np.count_nonzero(mask)) > 0.9


@pytest.mark.skipif(find_spec("nilearn") is None, reason="needs the extra demo")
def test_the_volume_example_segments_the_brain_stem(tmp_path: Path) -> None:
    picture = run_example("segment_volume.py", tmp_path / "stem.png")
    assert picture.shape == (560, 1680, 3)
    mask = read_segs(tmp_path / "stem_mask.npz")
    occupied = np.flatnonzero(mask.any(axis=(1, 2)))
    assert (occupied[0], occupied[-1]) == (14, 50)
    assert 18_000 < np.count_nonzero(mask) < 26_000
    assert mask[32, 128, 98]  # the pons
    assert not mask[32, 150, 98]  # the fourth ventricle behind it
