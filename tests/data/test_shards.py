"""Shards: samples come back as written, and damaged or hostile ones are refused without unpickling."""

import io
import json
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.data import shards
from graysam.data.shard_writing import EncodedSample, ShardWriter, encode_image
from graysam.data.shards import INDEX_NAME, MANIFEST_NAME, ShardError, ShardReader
from graysam.system.files import sha256_of
from tests.support.commands import Trap
from tests.support.packing import SQUARE, pack, picture

META = {"group": "g", "modality": "m", "dataset": "d", "subject_id": "s"}


def written(folder: Path, *samples: EncodedSample | None) -> ShardReader:
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, 10) as writer:
        for sample in samples:
            assert sample is not None
            writer.write(sample)
        writer.finish(["train"] * len(samples), {})
    return ShardReader(folder)


def good_sample() -> EncodedSample:
    sample, _ = encode_image("k", SQUARE, [SQUARE % 5], META, size=256)
    assert sample is not None
    return sample


def test_sample_comes_back_as_packed(tmp_path: Path) -> None:
    """At 256 px nothing is resized: colours and masks are exact, and masks may overlap."""
    colour = picture(1, 256, 200, 3)
    whole = np.zeros_like(SQUARE)
    whole[5:150] = 9
    samples = []
    for key, maps in {"a": [SQUARE], "b": [SQUARE, whole]}.items():
        sample, vanished = encode_image(key, colour, maps, {**META, "slice_index": None}, size=256)
        assert vanished == 0
        samples.append(sample)
    reader = pickle.loads(pickle.dumps(written(tmp_path, *samples)))
    plain, overlapping = reader.read(0), reader.read(1)
    assert plain.key == "a"
    assert plain.labels == (1, 5)
    assert np.array_equal(plain.image, colour)
    assert np.array_equal(plain.mask(1), SQUARE == 1)
    assert np.array_equal(plain.mask(5), SQUARE == 5)
    assert plain.mask(1).dtype == np.bool_
    assert plain.meta == {
        "slice_index": None,
        "original_size": [256, 200],
        "boxes_xyxy": {"1": [30, 10, 59, 19], "5": [7, 100, 8, 101]},
        **META,
    }
    assert overlapping.labels == (1, 5, 9)
    assert np.array_equal(overlapping.mask(9), whole == 9)
    assert np.array_equal(overlapping.mask(1), SQUARE == 1)


@pytest.mark.parametrize("shape", [(1, 900), (1, 1), (300, 500)])
def test_mask_lies_on_its_object_after_resizing(tmp_path: Path, shape: tuple[int, int]) -> None:
    labels = np.ones(shape, np.uint8)
    labels[: shape[0] // 2] = 0
    sample, _ = encode_image("k", labels * np.uint8(200), [labels], META, size=256)
    packed = written(tmp_path, sample).read(0)
    assert max(packed.mask(1).shape) == 256
    assert np.array_equal(packed.mask(1), packed.image > 99)


@pytest.mark.parametrize("name", ["k.pkl", "k.rle.json.pkl", "../k.png", " k.png"])
def test_other_members_are_named_and_never_opened(tmp_path: Path, name: str) -> None:
    reader, planted = written(tmp_path / "bad", good_sample()), tmp_path / "planted"
    poison = pickle.dumps(Trap(planted))
    with tarfile.open(tmp_path / "bad" / "shard-000000.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(poison)
        tar.addfile(info, io.BytesIO(poison))
    with pytest.raises(ShardError, match="not opened") as caught:
        reader.read(0)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not planted.exists()
    pickle.loads(poison).close()  # the trap is real
    assert planted.exists()


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("png", b"no png"),
        ("png", b""),
        ("png", cv2.imencode(".png", np.zeros((256, 199), np.uint8))[1].tobytes()),
        ("rle", b"{"),
        ("rle", b"[]"),
        ("meta", b"nothing"),
    ],
)
def test_damaged_members_are_refused(tmp_path: Path, member: str, content: bytes) -> None:
    reader = written(tmp_path / "s", replace(good_sample(), **{member: content}))
    with pytest.raises(ShardError, match="sample k"):
        reader.read(0)


@pytest.mark.parametrize("counts", ["", "zzzzzzzz", "é"])
def test_damaged_runs_are_refused(tmp_path: Path, counts: Any) -> None:
    rle = json.dumps({"1": {"size": [256, 200], "counts": counts}}).encode()
    sample = written(tmp_path / "s", replace(good_sample(), rle=rle)).read(0)
    with pytest.raises(ShardError, match="label 1"):
        sample.mask(1)


def test_damaged_folders_are_refused(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"graysam.pack.*data=demo"):
        ShardReader(tmp_path / "absent")
    pack(raw, tmp_path / "out")
    reader = ShardReader(tmp_path / "out")
    shard, index = tmp_path / "out" / "shard-000000.tar", tmp_path / "out" / INDEX_NAME
    for path, change, word in (
        (shard, lambda content: content[:-1024], "bytes"),
        (index, lambda content: content.replace(b"val", b"train", 1), "changed after packing"),
        (tmp_path / "out" / MANIFEST_NAME, lambda content: content[:-9], "JSON"),
        (tmp_path / "out" / MANIFEST_NAME, lambda content: content.replace(b'n": 2', b'n": 1'), "version"),
    ):
        content = path.read_bytes()
        path.write_bytes(change(content))
        with pytest.raises(ShardError, match=word):
            ShardReader(tmp_path / "out")
        path.write_bytes(content)
    content = shard.read_bytes()
    for cut in (0, 100, 700, 1500):
        shard.write_bytes(content[:cut])
        with pytest.raises(ShardError):
            reader.read(0)
    shard.unlink()
    with pytest.raises(ShardError, match="no such file"):
        ShardReader(tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"rle": b"{}"},  # a training sample without masks
        {"meta": b'{"boxes_xyxy": {}}'},
        {"png": cv2.imencode(".png", np.zeros(SQUARE.shape, np.uint16))[1].tobytes()},
    ],
)
def test_contradictory_samples_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ShardError, match="not readable"):
        written(tmp_path, replace(good_sample(), **changes)).read(0)


def test_keys_are_unique_within_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="key k occurs twice"):
        written(tmp_path / "a", good_sample(), good_sample())


@pytest.mark.parametrize("member", ["png", "rle.json", "meta.json"])
def test_one_bit_of_a_shard_is_enough_to_refuse_it(tmp_path: Path, member: str) -> None:
    folder = written(tmp_path / "s", good_sample()).folders[0]
    shard = folder / "shard-000000.tar"
    content = shard.read_bytes()
    with tarfile.open(shard) as tar:
        info = tar.getmember(f"k.{member}")
    for place in np.linspace(info.offset, info.offset_data + info.size - 1, 60).astype(int):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(place) % 8
        shard.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"shard-000000.tar was damaged or changed after packing.*; copy or pack"):
            ShardReader(folder)
    shard.write_bytes(content)
    assert ShardReader(folder).keys.tolist() == ["k"]


def test_a_shard_of_another_packing_under_the_same_name_and_size_is_refused(tmp_path: Path) -> None:
    first, second = (
        written(tmp_path / name, replace(good_sample(), meta=json.dumps({"boxes_xyxy": name}).encode())).folders[0]
        for name in "ab"
    )
    shutil.copy(second / "shard-000000.tar", first)
    with pytest.raises(ShardError, match="damaged or changed after packing"):
        ShardReader(first)


def test_a_shard_is_compared_with_its_hash_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "s", good_sample()).folders[0]
    compared: list[str] = []
    monkeypatch.setattr(shards, "sha256_of", lambda path: compared.append(path.name) or sha256_of(path))
    ShardReader(folder)
    monkeypatch.setenv("GRAYSAM_CACHE", "/dev/null/no folder")  # nothing is remembered, and nothing fails
    ShardReader(folder)
    assert compared == ["index.csv", "shard-000000.tar", "index.csv"]


@pytest.mark.parametrize("manifest", [{}, {"shards": []}, {"shards": [{"file": "../x.tar"}], "index": {}}])
def test_incomplete_manifests_are_refused(tmp_path: Path, manifest: dict[str, Any]) -> None:
    folder = written(tmp_path / "a", good_sample()).folders[0]
    file = folder / MANIFEST_NAME
    kept = {key: json.loads(file.read_text())[key] for key in ("format", "version")}
    file.write_text(json.dumps(kept | manifest))
    with pytest.raises(ShardError, match="damaged"):
        ShardReader(folder)
