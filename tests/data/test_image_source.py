"""Images without masks become shards of a split of their own, and join labelled ones."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.data import packing
from graysam.data.shards import ShardReader
from graysam.data.sources import ImageSource


def write(path: Path, image: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return image


def noise(*shape: int, dtype: type = np.uint8, top: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape).astype(dtype)


def pack(source: Path, target: Path, **changes: Any) -> dict[str, Any]:
    return packing.pack(ImageSource(folder=source, size=256), target, samples_per_shard=4, split=None, **changes)


def test_images_are_stored_unchanged_and_grouped_by_folder(tmp_path: Path) -> None:
    colour = write(tmp_path / "in" / "fundus" / "a.png", noise(256, 200, 3))
    grey = write(tmp_path / "in" / "x ray" / "deep" / "b.png", noise(100, 256))
    manifest = pack(tmp_path / "in", tmp_path / "out")
    reader = ShardReader(tmp_path / "out")
    assert manifest["groups"]["unlabelled_fundus"]["unlabelled"] == 1
    assert reader.groups.tolist() == ["unlabelled_fundus", "unlabelled_x-ray"]
    assert reader.splits.tolist() == ["unlabelled", "unlabelled"]
    assert (reader.read(0).image == colour).all()  # RGB, not BGR
    assert (reader.read(1).image == grey).all()
    assert reader.read(0).labels == ()


def test_sixteen_bits_grey_in_colour_and_sizes(tmp_path: Path) -> None:
    deep = write(tmp_path / "in" / "a.png", noise(256, 256, dtype=np.uint16, top=4096))
    write(tmp_path / "in" / "b.png", np.repeat(noise(64, 32)[..., None], 3, axis=2))
    pack(tmp_path / "in", tmp_path / "out")
    reader = ShardReader(tmp_path / "out")
    low, high = int(deep.min()), int(deep.max())
    assert np.abs(reader.read(0).image - (deep - low) * (255 / (high - low))).max() <= 1
    assert reader.read(1).image.shape == (256, 128)  # one channel, the longest side enlarged
    assert reader.read(1).meta["original_size"] == [64, 32]


def test_a_bad_file_is_reported_and_the_rest_packed(tmp_path: Path) -> None:
    for i in range(5):
        write(tmp_path / "in" / f"{i}.png", noise(20 + i, 30))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    manifest = pack(tmp_path / "in", tmp_path / "out")
    assert list(manifest["cases"]["bad"]) == ["bad.png"]
    assert len(ShardReader(tmp_path / "out")) == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no case files"),
        ({"a.png": b"x"}, "none of 1 files gave a sample; the first of 1 bad files: a.png"),
    ],
)
def test_what_cannot_be_packed_leaves_nothing(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pack(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_joined_shards_are_read_in_order(tmp_path: Path, toy_shards: Path) -> None:
    image = write(tmp_path / "in" / "a.png", noise(256, 256))
    pack(tmp_path / "in", tmp_path / "out")
    first, joined = ShardReader(toy_shards), ShardReader(toy_shards, tmp_path / "out")
    assert len(joined) == len(first) + 1
    assert joined.rows(split="unlabelled").tolist() == [len(first)]
    assert (joined.read(len(first)).image == image).all()
    assert [joined.read(row).key for row in range(len(first))] == first.keys.tolist()
