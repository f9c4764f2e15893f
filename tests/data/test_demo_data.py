"""The demo's shards: real MR, three groups, a slab held out with a gap, built once."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graysam.data import demo
from graysam.data.demo import load_template
from graysam.data.shards import MANIFEST_NAME, ShardReader
from tests.support.config import compose_plain

GROUPS = ("MR_axial", "MR_coronal", "MR_sagittal")
DEFAULTS = compose_plain("pack")["demo"]


def build_demo(output_dir: Path, **changes: int) -> dict[str, Any]:
    return demo.build_demo(output_dir, **{**DEFAULTS, **changes})


def test_training_and_packing_build_the_same_demo() -> None:
    prepare = compose_plain("train", ["data=demo"])["data"]["prepare"]
    assert {key: value for key, value in prepare.items() if not key.startswith("_")} == DEFAULTS


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "shards"
    build_demo(folder)
    return folder


def test_template_lies_as_documented() -> None:
    """The brain is longest from front to back, its cerebellum low and at the back, and left is as right."""
    image, (grey, white, brain) = load_template()
    assert image.dtype == np.uint8
    assert image.shape == (189, 233, 197) == brain.shape
    z, y, _ = np.nonzero(brain)
    assert np.ptp(y) > np.ptp(z)
    lowest = y[z <= 20].mean()  # cerebellum and brain stem
    assert lowest > y.mean() + 10
    assert np.array_equal(image, image[:, :, ::-1])
    assert [np.unique(labels).tolist() for labels in (grey, white, brain)] == [[0, 1], [0, 2], [0, 3]]
    assert not ((grey > 0) & (white > 0)).any()
    assert image[white > 0].mean() > image[grey > 0].mean() + 40, "T1: white matter is brighter"
    assert image[brain == 0].max() == 0


def test_groups_splits_and_labels(built: Path) -> None:
    reader = ShardReader(built)
    assert tuple(np.unique(reader.groups)) == GROUPS
    assert set(reader.modalities) == {"MR"}
    counts = {group: (len(reader.rows("train", group)), len(reader.rows("val", group))) for group in GROUPS}
    assert counts == {"MR_axial": (56, 11), "MR_coronal": (70, 11), "MR_sagittal": (32, 21)}
    for row in range(len(reader)):
        sample = reader.read(row)
        assert sample.image.ndim == 2
        assert max(sample.image.shape) == 256
        assert set(sample.labels) <= {1, 2, 3}
        assert 3 in sample.labels
        assert all((sample.mask(3) | ~sample.mask(label)).all() for label in sample.labels), "masks overlap"


def test_a_gap_of_ten_slices_lies_between_the_splits(built: Path) -> None:
    reader = ShardReader(built)
    for group in GROUPS:
        train, val = (
            np.array([reader.read(int(row)).meta["slice_index"] for row in reader.rows(split, group)])
            for split in ("train", "val")
        )
        assert np.abs(train[:, None] - val[None]).min() > 10
        assert (train < val.min()).any()
        assert (train > val.max()).any()


def test_no_held_out_picture_is_in_training(built: Path) -> None:
    reader = ShardReader(built)
    pictures = {
        split: {reader.read(int(row)).image.tobytes() for row in reader.rows(split)} for split in ("train", "val")
    }
    assert not pictures["train"] & pictures["val"]
    assert len(pictures["val"]) == len(reader.rows("val"))


def test_second_call_builds_nothing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nilearn" not in sys.modules, "it imports scikit-learn and pandas"
    before = (built / MANIFEST_NAME).stat()
    monkeypatch.setattr(demo, "template_paths", lambda: pytest.fail("built again"))
    build_demo(built)
    assert (built / MANIFEST_NAME).stat() == before


def test_the_demo_is_byte_identical(built: Path, tmp_path: Path) -> None:
    build_demo(tmp_path / "again")
    for path in built.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_the_second_of_two_processes_takes_the_shards_of_the_first(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beaten(folder: Path, settings: dict[str, int]) -> None:
        shutil.copytree(built, tmp_path / "demo")

    monkeypatch.setattr(demo, "_write", beaten)
    manifest = build_demo(tmp_path / "demo")
    assert manifest["samples"] == len(ShardReader(tmp_path / "demo"))
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_other_parameters_replace_a_demo_but_nothing_else(tmp_path: Path) -> None:
    small = build_demo(tmp_path / "demo", stride=16, slab=17)
    smaller = build_demo(tmp_path / "demo", stride=20, slab=21)
    assert smaller["samples"] < small["samples"]
    (tmp_path / "packed").mkdir()
    manifest = '{"format": "graysam-shards", "version": 2, "source": "npz"}'
    (tmp_path / "packed" / MANIFEST_NAME).write_text(manifest)
    with pytest.raises(ValueError, match="overwrite=true"):
        build_demo(tmp_path / "packed")


@pytest.mark.parametrize("parameters", [{"gap": 9}, {"stride": 0}, {"slab": 1}])
def test_parameters_that_would_leak_are_refused(tmp_path: Path, parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="required"):
        build_demo(tmp_path / "demo", **parameters)  # type: ignore[arg-type]


def test_missing_nilearn_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install '\.\[demo\]'") as caught:
        build_demo(tmp_path / "demo")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
