"""Shards of other sizes than 256 px: what is stored, and that the whole image reaches the network as from 256 px."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graysam.data.augment import CropShift, Flip, PositionSizeJitter
from graysam.data.dataset import FixedSlices, Item, TrainingSlices, collate
from graysam.data.packing import run_pack
from graysam.data.sampling import Draw
from graysam.data.shards import ShardError, ShardReader
from graysam.data.views import FullViews
from graysam.imaging.channels import load_scheme
from tests.support.packing import DEFAULTS, pack, picture, save

SHAPES = {"US_a_0": (300, 420), "US_a_1": (60, 40), "US_a_2": (512, 100), "Fundus_a_3": (700, 900)}
TRAINING: dict[str, Any] = {
    "scheme": load_scheme("perona_malik"),
    "size": 256,
    "jitter": PositionSizeJitter(shift=0.1, scale=0.2),
    "augmentations": [
        Flip(horizontal=0.5, vertical=0.5),
        CropShift(probability=0.5, min_zoom=0.8, max_zoom=1.5, max_shift=0.25, min_visible=0.6),
    ],
    "boxes_per_image": 2,
    "views": FullViews(),
}


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A folder of images of four sizes with two objects each."""
    for number, (name, (height, width)) in enumerate(SHAPES.items()):
        gts = np.zeros((height, width), np.uint16)
        gts[height // 5 : height // 2, width // 4 : width // 2] = 1
        gts[height // 2 : height // 2 + 9, width // 3 : width // 3 + 17] = 700
        channels = (3,) if name.startswith("Fundus") else ()
        save(tmp_path / "cases" / f"{name}.npz", imgs=picture(number, height, width, *channels), gts=gts)
    return tmp_path / "cases"


def equal(left: Item, right: Item) -> bool:
    return left.key == right.key and all(
        getattr(left, name).equal(getattr(right, name)) for name in ("image", "boxes", "masks")
    )


@pytest.mark.parametrize(
    ("size", "longest"),
    [(128, [128] * 4), (256, [256] * 4), (512, [512, 420, 60, 512]), ("native", [900, 420, 60, 512])],
)
def test_larger_images_are_reduced_and_smaller_ones_enlarged_up_to_256_only(
    cases: Path, tmp_path: Path, size: Any, longest: list[int]
) -> None:
    manifest = pack(cases, tmp_path / "out", size=size)
    assert manifest["packing"]["size"] == size
    reader = ShardReader(tmp_path / "out")
    samples = [reader.read(row) for row in range(4)]
    assert [max(sample.image.shape[:2]) for sample in samples] == longest
    assert all(tuple(sample.meta["original_size"]) == SHAPES[sample.key] for sample in samples)


def test_native_samples_are_the_cases_themselves(cases: Path, tmp_path: Path) -> None:
    pack(cases, tmp_path / "out", size="native")
    reader = ShardReader(tmp_path / "out")
    for row in range(4):
        sample = reader.read(row)
        with np.load(cases / f"{sample.key}.npz", allow_pickle=False) as case:
            assert np.array_equal(sample.image, case["imgs"])
            for label in (1, 700):
                assert np.array_equal(sample.mask(label), case["gts"] == label)


@pytest.mark.parametrize("size", [512, "native"])
def test_whole_images_are_those_of_256_px_unless_they_were_reduced_twice(
    cases: Path, tmp_path: Path, size: Any
) -> None:
    """Augmented or not, with the same draws: an image reaches 256 px in one step from its original."""
    pack(cases, tmp_path / "256")
    pack(cases, tmp_path / "larger", size=size)
    small, large = ShardReader(tmp_path / "256"), ShardReader(tmp_path / "larger")
    for row in range(4):
        fixed, training = [], []
        for reader in (small, large):
            slices = FixedSlices(reader, np.array([row]), scheme=TRAINING["scheme"], size=256, max_boxes_per_image=None)
            fixed.append(slices[0])
            training.append([TrainingSlices(reader, **TRAINING)[Draw(row, (0, 0, place))] for place in range(8)])
        reduced_twice = size == 512 and small.keys[row] == "Fundus_a_3"
        assert equal(*fixed) is not reduced_twice
        assert all(equal(*pair) for pair in zip(*training, strict=True)) is not reduced_twice
        assert fixed[0].boxes.equal(fixed[1].boxes)


def test_a_label_too_small_for_256_px_is_stored_for_crops_alone(tmp_path: Path) -> None:
    gts = np.zeros((1024, 1024), np.uint8)
    gts[100:300, 100:300], gts[512, 512] = 1, 2
    tiny = np.where(gts == 2, gts, 0)
    save(tmp_path / "raw" / "US_a_1.npz", imgs=picture(0, 1024, 1024), gts=gts)
    save(tmp_path / "raw" / "US_a_2.npz", imgs=picture(0, 1024, 1024), gts=tiny)
    left_out = {"cases_without_samples": 1, "labels_vanished_in_resizing": 1, "slices_emptied_by_resizing": 1}
    assert pack(tmp_path / "raw", tmp_path / "native", size="native")["left_out"] == left_out
    assert pack(tmp_path / "raw", tmp_path / "256")["left_out"] == left_out | {"labels_vanished_in_resizing": 2}
    sample = ShardReader(tmp_path / "native").read(0)
    assert (sample.labels, sample.stored_labels) == ((1,), (1, 2))
    assert sample.meta["vanishing_labels"] == [2]
    assert np.array_equal(sample.mask(2), gts == 2)
    assert "vanishing_labels" not in ShardReader(tmp_path / "256").read(0).meta


def test_shards_smaller_than_the_grid_are_refused(cases: Path, tmp_path: Path) -> None:
    pack(cases, tmp_path / "out", size=128)
    slices = TrainingSlices(ShardReader(tmp_path / "out"), **TRAINING)
    with pytest.raises(ShardError, match=r"stored at 128 px; required: 256 px .*; pack again with size=256"):
        slices[Draw(0, (0, 0, 0))]
    assert (
        TrainingSlices(ShardReader(tmp_path / "out"), **TRAINING | {"size": 128})[Draw(0, (0,))].image.shape[1] == 128
    )


def test_folders_of_different_sizes_join(tmp_path: Path) -> None:
    """An image that one folder holds out is found in another one of another size and under another name."""
    for number in range(6):
        objects = np.zeros((400, 300), np.uint8)
        objects[50:90, 60:100] = 1
        for folder, name in (("one", f"US_a_{number}"), ("two", f"US_b_{number + 10}")):
            save(tmp_path / folder / f"{name}.npz", imgs=picture(number, 400, 300), gts=objects)
    pack(tmp_path / "one", tmp_path / "256", val_fraction=0.3)
    pack(tmp_path / "two", tmp_path / "native", size="native", val_fraction=0)
    with pytest.raises(ShardError, match="2 samples of 2 subjects"):
        ShardReader(tmp_path / "256", tmp_path / "native")
    reader = ShardReader(tmp_path / "256", tmp_path / "native", drop_leaked=True)
    slices = TrainingSlices(reader, **TRAINING)
    items = [slices[Draw(row, (0, 0, row))] for row in range(len(reader))]
    assert collate(items).images.shape == (10, 3, 256, 256)


def test_packing_prints_what_a_sample_costs(cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {**DEFAULTS, "input_dir": str(cases), "output_dir": str(tmp_path / "out"), "workers": 1, "size": "native"}
    assert run_pack(**{key: value for key, value in given.items() if key != "_target_"}) == 0
    megabytes = (tmp_path / "out" / "shard-000000.tar").stat().st_size / 1e6
    expected = f"4 samples in 1 shards, {megabytes:.1f} MB, {250 * megabytes:.1f} kB a sample\n"
    assert expected in capsys.readouterr().out
