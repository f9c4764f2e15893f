"""A slice reaches the network in validation exactly as it does in prediction: the same pixels, the same box."""

from pathlib import Path

import numpy as np
import pytest

from graysam.data.dataset import FixedSlices
from graysam.data.packing import pack
from graysam.data.shards import ShardReader
from graysam.data.sources import ChallengeSource
from graysam.data.split import Split
from graysam.imaging.channels import load_scheme, scheme_names
from graysam.inference.segmentation import Segmentation
from tests.support.exported_models import Spy


@pytest.mark.parametrize("size", [(30, 40), (301, 197), (256, 256)])  # enlarged, reduced, as it is
@pytest.mark.parametrize("channels", sorted(set(scheme_names()) - {"released"}))  # that one differs on purpose
def test_validation_and_prediction_agree(tmp_path: Path, size: tuple[int, int], channels: str) -> None:
    rng = np.random.default_rng(size)
    image = np.repeat(rng.integers(0, 256, (*size, 1), dtype=np.uint8), 3, axis=2)
    gts = np.zeros(size, np.uint8)
    gts[5:21, 3:25] = 1
    gts[22:28, 10:19] = 4
    (tmp_path / "raw").mkdir()
    np.savez_compressed(tmp_path / "raw" / "US_toy_1.npz", imgs=image, gts=gts)
    pack(
        ChallengeSource(folder=tmp_path / "raw", size=256, spacing_order="zyx", patient_pattern=None),
        tmp_path / "shards",
        split=Split(split_by="patient", val_fraction=0.0, seed=0),
        samples_per_shard=10,
    )
    scheme, spy = load_scheme(channels), Spy()
    Segmentation(image, [[3, 5, 24, 20], [10, 22, 18, 27]], spy, scheme).labels()
    reader = ShardReader(tmp_path / "shards")
    item = FixedSlices(reader, np.array([0]), scheme=scheme, size=256, max_boxes_per_image=None)[0]
    np.testing.assert_array_equal(item.image, spy.images[0])
    np.testing.assert_array_equal(item.boxes, np.stack(spy.boxes))
