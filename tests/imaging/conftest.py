"""What LiteMedSAM's preparation and the released code gave."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def golden(goldens: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the preparation's goldens."""
    with np.load(goldens / "preprocess.npz", allow_pickle=False) as stored:
        return dict(stored)
