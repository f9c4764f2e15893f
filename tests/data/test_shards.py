"""Shards: samples come back as written, and damaged or hostile ones are refused without unpickling."""

import functools
import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.data.shard_writing import EncodedSample, ShardWriter, encode_labelled_image, encode_sample
from graysam.data.shards import INDEX_NAME, MANIFEST_NAME, VERSION, ShardError, ShardIndex, ShardReader
from tests.support.packing import SQUARE, pack, picture

META = {"group": "g", "modality": "m"}


def written(folder: Path, *samples: EncodedSample | None) -> ShardReader:
    folder.mkdir(exist_ok=True)
    with ShardWriter(folder, 10) as writer:
        for sample in samples:
            assert sample is not None
            writer.write(sample)
        writer.finish(["train"] * len(samples), {})
    return ShardReader(folder)


def good_sample() -> EncodedSample:
    return encode_sample("k", SQUARE, {1: SQUARE == 1}, META)


def test_sample_comes_back_as_packed(tmp_path: Path) -> None:
    """At 256 px nothing is resized: colours and masks are exact, and masks may overlap."""
    colour = picture(1, 256, 200, 3)
    whole = np.zeros_like(SQUARE)
    whole[5:150] = 9
    samples = []
    for key, maps in {"a": [SQUARE], "b": [SQUARE, whole]}.items():
        sample, vanished = encode_labelled_image(key, colour, maps, {**META, "slice_index": None}, size=256)
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


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (1, 1), (300, 500)])
def test_mask_lies_on_its_object_after_resizing(tmp_path: Path, shape: tuple[int, int]) -> None:
    labels = np.ones(shape, np.uint8)
    labels[: shape[0] // 2] = 0
    sample, _ = encode_labelled_image("k", labels * np.uint8(200), [labels], META, size=256)
    packed = written(tmp_path, sample).read(0)
    assert max(packed.mask(1).shape) == 256
    assert np.array_equal(packed.mask(1), packed.image > 99)


# --------------------------------------------------------------------------------------------- hostile shards
class Planted:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(open, self.path, "w"), ()


def forge(folder: Path, members: dict[str, bytes]) -> ShardReader:
    """Shards of one sample with these members, index and manifest in order."""
    folder.mkdir(parents=True)
    shard = folder / "shard-000000.tar"
    with tarfile.open(shard, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    size = shard.stat().st_size
    index = folder / INDEX_NAME
    index.write_text(f"key,shard,offset,length,group,modality,split\nk,{shard.name},0,{size},g,m,train\n")
    manifest = {
        "format": "graysam-shards",
        "version": VERSION,
        "index": {"sha256": hashlib.sha256(index.read_bytes()).hexdigest()},
        "shards": [{"file": shard.name, "bytes": size}],
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    return ShardReader(folder)


def good_members() -> dict[str, bytes]:
    sample = good_sample()
    return {"k.png": sample.png, "k.rle.json": sample.rle, "k.meta.json": sample.meta}


@pytest.mark.parametrize("name", ["k.pkl", "k.rle.json.pkl", "../k.png", "k.png"])
def test_other_members_are_named_and_never_opened(tmp_path: Path, name: str) -> None:
    assert forge(tmp_path / "good", good_members()).read(0).labels == (1,)
    planted = tmp_path / "planted"
    poison = pickle.dumps(Planted(planted))
    members = {f" {name}" if name in good_members() else name: poison, **good_members()}
    reader = forge(tmp_path / "bad", members)
    with pytest.raises(ShardError, match="not opened") as caught:
        reader.read(0)
    assert repr(next(iter(members))) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not planted.exists()
    pickle.loads(poison).close()  # the trap is real
    assert planted.exists()


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("k.png", b"no png"),
        ("k.png", b""),
        ("k.png", cv2.imencode(".png", np.zeros((256, 199), np.uint8))[1].tobytes()),
        ("k.rle.json", b"{"),
        ("k.rle.json", b"[]"),
        ("k.meta.json", b"nothing"),
    ],
)
def test_damaged_members_are_refused(tmp_path: Path, member: str, content: bytes) -> None:
    reader = forge(tmp_path / "s", {**good_members(), member: content})
    with pytest.raises(ShardError, match="sample k"):
        reader.read(0)


@pytest.mark.parametrize("counts", ["", "zzzzzzzz", "é"])
def test_damaged_runs_are_refused(tmp_path: Path, counts: Any) -> None:
    rle = json.dumps({"1": {"size": [256, 200], "counts": counts}}).encode()
    sample = forge(tmp_path / "s", {**good_members(), "k.rle.json": rle}).read(0)
    with pytest.raises(ShardError, match="label 1"):
        sample.mask(1)


def test_damaged_folders_are_refused(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"graysam.pack.*data=demo"):
        ShardIndex.load(tmp_path / "absent")
    pack(raw, tmp_path / "out")
    reader = ShardReader(tmp_path / "out")
    shard, index = tmp_path / "out" / "shard-000000.tar", tmp_path / "out" / INDEX_NAME
    for path, change, word in (
        (shard, lambda content: content[:-1024], "bytes"),
        (index, lambda content: content.replace(b"val", b"train", 1), "changed after packing"),
        (tmp_path / "out" / MANIFEST_NAME, lambda content: content[:-9], "damaged"),
        (tmp_path / "out" / MANIFEST_NAME, lambda content: content.replace(b'n": 2', b'n": 1'), "version"),
    ):
        content = path.read_bytes()
        path.write_bytes(change(content))
        with pytest.raises(ShardError, match=word):
            ShardIndex.load(tmp_path / "out")
        path.write_bytes(content)
    content = shard.read_bytes()
    for cut in (0, 100, 700, 1500):
        shard.write_bytes(content[:cut])
        with pytest.raises(ShardError):
            reader.read(0)
    shard.unlink()
    with pytest.raises(ShardError, match="no such file"):
        ShardIndex.load(tmp_path / "out")
