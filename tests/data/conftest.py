"""Cases to pack."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.packing import SQUARE, picture, save


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return a folder of six ultrasound images and of eight patients with a CT and an MR volume, two with a PET."""
    folder = tmp_path / "raw"
    for i in range(6):
        grey = np.repeat(picture(i, 40, 64, 1), 3, axis=2)
        save(folder / "US" / f"US_HC18_{i:03d}.npz", imgs=grey, gts=SQUARE[:40, :64])
    for i in range(8):
        gts = np.zeros((4, 24, 20), np.uint8)
        gts[1:3, 5:15, 6:16] = 1
        gts[2, 0:3, 0:3] = 2
        for modality in ("CT", "MR", "PET")[: 3 if i < 2 else 2]:
            path = folder / modality / f"{modality}_STS_STS{i:03d}.npz"
            save(path, imgs=picture(i, 4, 24, 20), gts=gts, spacing=np.array([3.0, 2.0, 1.0]))
    return folder
