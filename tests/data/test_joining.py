"""Folders of shards that are read together: what one holds out, no other trains on, and equal keys are kept apart."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.data import packing
from graysam.data.shards import COLUMNS, INDEX_NAME, MANIFEST_NAME, ShardError, ShardReader
from graysam.data.sources import ImageSource
from graysam.system.files import sha256_of
from tests.support.packing import SQUARE, pack, picture, save


def cases(folder: Path, pattern: str = "US_toy_{:03d}", count: int = 8, seed: int = 0) -> Path:
    for i in range(count):
        save(folder / f"{pattern.format(i)}.npz", imgs=picture(seed + i, 256, 200), gts=SQUARE)
    return folder


def packed(raw: Path, target: Path, **options: Any) -> Path:
    pack(raw, target, val_fraction=0.25, **options)
    return target


def without_identities(folder: Path) -> Path:
    """Make shards look as an older graysam packed them."""
    index, file = folder / INDEX_NAME, folder / MANIFEST_NAME
    with index.open(newline="") as lines:
        rows = [row[:7] for row in csv.reader(lines)]
    with index.open("w", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows(rows)
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"index": {"file": INDEX_NAME, "sha256": sha256_of(index)}}))
    return folder


@pytest.mark.parametrize("older", [False, True])
def test_two_packings_of_the_same_cases_are_refused_or_the_copies_left_out(tmp_path: Path, older: bool) -> None:
    raw = cases(tmp_path / "raw")
    one, two = (packed(raw, tmp_path / name, seed=seed) for name, seed in (("one", 0), ("two", 2)))
    if older:
        one, two = without_identities(one), without_identities(two)
    held_out = [set(reader.keys[reader.rows("val")]) for reader in map(ShardReader, (one, two))]
    assert not held_out[0] & held_out[1]
    with pytest.raises(ShardError) as caught:
        ShardReader(one, two)
    message = str(caught.value)
    assert all(word in message for word in (str(one), str(two), "4 samples of 4 subjects", "data.drop_leaked=true"))
    assert sum(key in message for key in held_out[0] | held_out[1]) == 3, "the first keys"

    reader = ShardReader(one, two, drop_leaked=True)
    assert (reader.dropped, len(reader)) == (4, 12)
    assert len(set(reader.keys)) == len(reader)
    assert {key.rpartition("/")[2] for key in reader.keys[reader.rows("val")]} == held_out[0] | held_out[1]
    assert not {key.rpartition("/")[2] for key in reader.keys[reader.rows("train")]} & (held_out[0] | held_out[1])
    assert [reader.read(row).key for row in range(len(reader))] == reader.keys.tolist()
    twice = [key for key in reader.keys if "/" in key]
    assert sorted(twice) == sorted(f"{folder}/{key}" for folder in (one, two) for key in {Path(k).name for k in twice})


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"pattern": "US_other_{:03d}-1"}, {}),  # the same images under other names
        ({"seed": 100}, {}),  # other images of the same subjects
        ({}, {"size": 128}),
        ({"pattern": "US_toy_00{}_a"}, {"patient_pattern": r"(\d+)_a"}),
        ({}, {"split_by": "slice"}),
    ],
)
def test_held_out_subjects_are_found_under_other_names_sizes_and_splits(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any]
) -> None:
    one = packed(cases(tmp_path / "raw"), tmp_path / "one")
    two = packed(cases(tmp_path / "other", **change), tmp_path / "two", seed=3, **options)
    with pytest.raises(ShardError, match="trains on what"):
        ShardReader(one, two)
    reader = ShardReader(one, two, drop_leaked=True)
    assert 0 < reader.dropped == 16 - len(reader)


def test_all_slices_of_a_subject_are_left_out_with_one(tmp_path: Path) -> None:
    """The other packing holds out one slice alone, of a patient with another name."""
    gts = np.stack([SQUARE] * 3)
    for i in range(4):
        volume = {"imgs": picture(i, 3, 256, 200), "gts": gts, "spacing": np.ones(3)}
        save(tmp_path / "raw" / f"CT_toy_{i}.npz", **volume)
        save(tmp_path / "other" / f"CT_same_patient{i}.npz", **volume)
    two = packed(tmp_path / "other", tmp_path / "two")
    one = tmp_path / "one"
    pack(tmp_path / "raw", one, val_fraction=0.1, split_by="slice")
    assert len(ShardReader(one).rows("val")) == 1
    reader = ShardReader(one, two, drop_leaked=True)
    held_out = [key for key in reader.keys[reader.rows("val")] if key.startswith("CT_toy")]
    patient = held_out[0].split("_")[2]
    assert not [key for key in reader.keys[reader.rows("train")] if key.startswith(f"CT_same_patient{patient}")]


def test_pictures_of_held_out_images_are_no_unlabelled_ones(tmp_path: Path) -> None:
    one = packed(cases(tmp_path / "raw"), tmp_path / "one")
    (tmp_path / "in").mkdir()
    for i in range(8):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), picture(i, 256, 200))
    packing.pack(ImageSource(folder=tmp_path / "in", size=256), tmp_path / "more", samples_per_shard=9, split=None)
    with pytest.raises(ShardError, match="2 samples of 2 subjects"):
        ShardReader(one, tmp_path / "more")
    assert len(ShardReader(one, tmp_path / "more", drop_leaked=True).rows("unlabelled")) == 6


def test_equal_names_of_unknown_data_sets_are_different_subjects(tmp_path: Path) -> None:
    one = packed(cases(tmp_path / "raw", "US_{:03d}"), tmp_path / "one")
    two = packed(cases(tmp_path / "other", "US_{:03d}", seed=100), tmp_path / "two", seed=3)
    reader = ShardReader(one, two)
    assert (reader.dropped, len(set(reader.keys))) == (0, 16)
    assert all(key.startswith((f"{one}/", f"{two}/")) for key in reader.keys)
    images = {reader.read(row).image.tobytes() for row in range(16)}
    assert len(images) == 16


def test_a_folder_given_twice_is_refused(tmp_path: Path) -> None:
    one = packed(cases(tmp_path / "raw"), tmp_path / "one")
    with pytest.raises(ShardError, match="given twice"):
        ShardReader(one, tmp_path / "raw" / ".." / "one")


def test_the_index_names_subject_and_content(tmp_path: Path) -> None:
    one = packed(cases(tmp_path / "raw", count=2), tmp_path / "one")
    header, *rows = csv.reader((one / INDEX_NAME).read_text().splitlines())
    assert tuple(header) == COLUMNS
    assert [row[7] for row in rows] == ["toy/000", "toy/001"]
    assert len({row[8] for row in rows}) == 2 and all(len(row[8]) == 32 for row in rows)
