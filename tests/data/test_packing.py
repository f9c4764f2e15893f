"""Packing and shards: what is read is what was packed, the same bytes each time, no leak, no pickle."""

import functools
import hashlib
import importlib
import io
import json
import pickle
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graysam.config.composing import compose_plain
from graysam.data.packing import PackOptions, Subject, encode_labelled_image, hold_out, in_order, pack_folder
from graysam.data.shard_writing import ShardWriter, building, encode_sample
from graysam.data.shards import INDEX_NAME, MANIFEST_NAME, VERSION, ShardError, ShardIndex, ShardReader, load_manifest

SQUARE = np.zeros((256, 200), np.uint8)
SQUARE[10:20, 30:60] = 1
SQUARE[100:102, 7:9] = 5


def save(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


META = {"boxes_xyxy": {"1": [0, 0, 1, 1]}}


def picture(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Six ultrasound images; eight patients with a CT and an MR volume each, two of them with a PET."""
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


DEFAULTS = {
    key: compose_plain("pack")[key]
    for key in ("size", "spacing_order", "patient_pattern", "val_fraction", "split_by", "seed", "samples_per_shard")
}


def pack(raw: Path, output_dir: Path, workers: int = 1, overwrite: bool = False, **options: Any) -> Any:
    return pack_folder(raw, output_dir, PackOptions(**{**DEFAULTS, **options}), workers=workers, overwrite=overwrite)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------------------ truth


def test_sample_comes_back_as_packed(tmp_path: Path) -> None:
    """At 256 px nothing is resized: colours and masks are exact, and masks may overlap."""
    colour = picture(1, 256, 200, 3)
    whole = np.zeros_like(SQUARE)
    whole[5:150] = 9
    for key, maps in {"a": [SQUARE], "b": [SQUARE, whole]}.items():
        sample, vanished = encode_labelled_image(
            key, colour, maps, size=256, group="Dermoscopy", modality="Dermoscopy", meta={"slice_index": None}
        )
        assert sample is not None
        assert vanished == 0
        with building(tmp_path / key, replace_existing=False) as folder, ShardWriter(folder, 10) as writer:
            writer.write(sample)
            writer.finish(["train"], {})
    plain = ShardReader(tmp_path / "a").read(0)
    assert plain.key == "a"
    assert plain.labels == (1, 5)
    assert np.array_equal(plain.image, colour)
    assert plain.image[0, 0].tolist() == colour[0, 0].tolist()
    assert np.array_equal(plain.mask(1), SQUARE == 1)
    assert np.array_equal(plain.mask(5), SQUARE == 5)
    assert plain.mask(1).dtype == np.bool_
    overlapping = ShardReader(tmp_path / "b").read(0)
    assert overlapping.labels == (1, 5, 9)
    assert np.array_equal(overlapping.masks[9], whole == 9)
    assert np.array_equal(overlapping.masks[1], SQUARE == 1)
    assert plain.meta == {
        "slice_index": None,
        "original_size": [256, 200],
        "boxes_xyxy": {"1": [30, 10, 59, 19], "5": [7, 100, 8, 101]},
        "group": "Dermoscopy",
        "modality": "Dermoscopy",
    }


def test_packed_folder_holds_what_the_cases_hold(raw: Path, tmp_path: Path) -> None:
    report = pack(raw, tmp_path / "out", val_fraction=0.25, samples_per_shard=7)
    index = ShardIndex.load(tmp_path / "out")
    counts = {group: len(index.rows(group=group)) for group in index.group_names}
    assert counts == {"CT_STS": 16, "MR_STS": 16, "PET_STS": 4, "US": 6}
    assert report.manifest == load_manifest(tmp_path / "out")
    assert not report.bad
    assert report.manifest["left_out"] == {"slices_without_objects": 36}
    assert report.manifest["groups"]["CT_STS"] == {"modality": "CT", "train": 12, "val": 4}
    assert [shard["samples"] for shard in report.manifest["shards"]] == [7, 7, 7, 7, 7, 7]
    assert len(np.unique(index.keys)) == len(index) == 42
    for shard in report.manifest["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    reader = ShardReader(tmp_path / "out", index)
    row = int(np.flatnonzero(index.keys == "CT_STS_STS003_z0002")[0])
    sample = pickle.loads(pickle.dumps(reader)).read(row)
    assert sample.image.shape == (256, 213)
    assert sample.labels == (1, 2)
    assert sample.meta == {
        "case_id": "CT_STS_STS003",
        "subject_id": "STS003",
        "dataset": "STS",
        "group": "CT_STS",
        "modality": "CT",
        "slice_index": 2,
        "original_size": [24, 20],
        "boxes_xyxy": {"1": [6, 5, 15, 14], "2": [0, 0, 2, 2]},
        "spacing_mm_zyx": [3.0, 2.0, 1.0],
    }
    with np.load(raw / "CT" / "CT_STS_STS003.npz", allow_pickle=False) as case:
        expected = cv2.resize(case["imgs"][2], (213, 256), interpolation=cv2.INTER_AREA)
    assert np.array_equal(sample.image, expected)
    us = reader.read(int(index.rows(group="US")[0]))
    assert us.image.shape == (160, 256), "three equal channels are stored as one"
    assert us.mask(1)[44:76, 124:236].all()
    assert us.mask(1).sum() == 40 * 120


def test_webdataset_can_stream_the_shards(raw: Path, tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    pack(raw / "US", tmp_path / "out")
    chosen = {"png", "rle.json", "meta.json"}
    with open(tmp_path / "out" / "shard-000000.tar", "rb") as stream:
        source = [{"url": "shard", "stream": stream}]
        members = tar_file_expander(source, select_files=lambda name: name.split(".", 1)[1] in chosen)
        samples = list(group_by_keys(members))
    assert [s["__key__"] for s in samples] == ShardIndex.load(tmp_path / "out").keys.tolist()
    assert all(chosen <= set(s) for s in samples)


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (1, 1), (300, 500)])
def test_mask_lies_on_its_object_after_resizing(tmp_path: Path, shape: tuple[int, int]) -> None:
    labels = np.ones(shape, np.uint8)
    labels[: shape[0] // 2] = 0
    image = labels * np.uint8(200)
    sample, _ = encode_labelled_image("k", image, [labels], size=256, group="g", modality="m", meta=META)
    assert sample is not None
    decoded = cv2.imdecode(np.frombuffer(sample.png, np.uint8), cv2.IMREAD_UNCHANGED)
    with ShardWriter(tmp_path, 1) as writer:
        writer.write(sample)
        writer.finish(["val"], {})
    mask = ShardReader(tmp_path).read(0).mask(1)
    assert decoded is not None
    assert max(mask.shape) == 256
    assert np.array_equal(mask, decoded > 99)


def test_labels_that_vanish_are_dropped_and_counted(tmp_path: Path) -> None:
    gts = np.zeros((4096, 16), np.uint16)
    gts[0, 0], gts[1000:3000] = 700, 300
    save(tmp_path / "raw" / "US_A_1.npz", imgs=np.zeros((4096, 16), np.uint8), gts=gts)
    save(tmp_path / "raw" / "US_A_2.npz", imgs=np.zeros((4096, 16), np.uint8), gts=np.where(gts == 700, gts, 0))
    save(tmp_path / "raw" / "US_A_3.npz", imgs=np.zeros((9, 9), np.uint8), gts=np.zeros((9, 9), np.uint8))
    report = pack(tmp_path / "raw", tmp_path / "out")
    assert report.manifest["left_out"] == {
        "cases_without_samples": 2,
        "images_without_objects": 1,
        "labels_vanished_in_resizing": 2,
        "slices_emptied_by_resizing": 1,
    }
    assert ShardReader(tmp_path / "out").read(0).labels == (300,)


# ------------------------------------------------------------------------------------------------------ split


def test_no_patient_is_on_both_sides_in_any_modality(raw: Path, tmp_path: Path) -> None:
    for seed in range(3):
        pack(raw, tmp_path / str(seed), val_fraction=0.25, seed=seed)
        reader = ShardReader(tmp_path / str(seed))
        sides: dict[tuple[str, str], set[str]] = {}
        for row in range(len(reader)):
            meta = reader.read(row).meta
            sides.setdefault((meta["dataset"], meta["subject_id"]), set()).add(str(reader.index.splits[row]))
        assert len(sides) == 14
        assert all(len(side) == 1 for side in sides.values())
        for group in reader.index.group_names:
            for split in ("train", "val"):
                assert len(reader.index.rows(split, group)), group
        patients = load_manifest(tmp_path / str(seed))["split"]["val_subjects"]
        assert len(patients["PET_STS"]) == 1
        assert patients["CT_STS"] == patients["MR_STS"]


@pytest.mark.parametrize(("split_by", "leaks"), [("patient", False), ("slice", True)])
def test_a_split_by_slice_leaks_patients_and_one_by_patient_does_not(
    raw: Path, tmp_path: Path, split_by: str, leaks: bool
) -> None:
    """The leak is measured on what is written, and the manifest tells the same."""
    pack(raw, tmp_path / "out", split_by=split_by, val_fraction=0.25)
    index = ShardIndex.load(tmp_path / "out")
    reader = ShardReader(tmp_path / "out", index)
    sides: dict[tuple[str, str], set[str]] = {}
    for row in range(len(reader)):
        meta = reader.read(row).meta
        sides.setdefault((meta["dataset"], meta["subject_id"]), set()).add(str(index.splits[row]))
    on_both = sum(len(side) == 2 for side in sides.values())
    assert (on_both > 0) == leaks
    assert len(index.rows("val", "CT_STS")) == 4, "a quarter of 16 slices, or of 8 patients with two slices each"
    split = load_manifest(tmp_path / "out")["split"]
    assert split["split_by"] == split_by
    assert split["patients_on_both_sides"] == on_both
    held_out = split["val_subjects"]["CT_STS"]
    assert len(held_out) == (4 if leaks else 2)
    assert all(("_z" in name) == leaks for name in held_out)


def test_another_way_to_split_changes_the_split_and_not_the_shards(raw: Path, tmp_path: Path) -> None:
    for way in ("patient", "slice"):
        pack(raw, tmp_path / way, split_by=way, val_fraction=0.25)
    one, other = contents(tmp_path / "patient"), contents(tmp_path / "slice")
    assert {name for name in one if one[name] != other[name]} == {INDEX_NAME, MANIFEST_NAME}
    with pytest.raises(ValueError, match="split_by is 'volume'; required: patient or slice"):
        pack(raw, tmp_path / "out", split_by="volume")


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("ABCD"),
        st.sets(st.integers(0, 12), min_size=1).map(lambda s: {Subject("d", str(i)) for i in s}),
    ),
    st.floats(0.01, 0.6),
    st.integers(0, 5),
)
def test_every_group_keeps_training_subjects(groups: dict[str, set[Subject]], fraction: float, seed: int) -> None:
    held_out = hold_out(groups, fraction, seed)
    assert held_out == hold_out(dict(reversed(groups.items())), fraction, seed)
    for subjects in groups.values():
        assert subjects - held_out
    if len(groups) == 1:
        ((subjects),) = groups.values()
        wanted = max(1, int(fraction * len(subjects) + 0.5))
        assert len(held_out) == min(wanted, len(subjects) - 1)


def test_another_seed_holds_out_others_and_a_new_case_moves_few() -> None:
    subjects = {Subject("d", str(i)) for i in range(100)}
    first = hold_out({"g": subjects}, 0.1, 0)
    assert len(first) == 10
    assert first != hold_out({"g": subjects}, 0.1, 1)
    assert len(first & hold_out({"g": subjects | {Subject("d", "new")}}, 0.1, 0)) >= 9
    assert hold_out({"g": subjects}, 0, 0) == frozenset()


def test_a_group_of_one_patient_is_trained_on_and_named(raw: Path, tmp_path: Path) -> None:
    for path in sorted((raw / "PET").iterdir())[1:]:
        path.unlink()
    report = pack(raw, tmp_path / "out")
    assert report.manifest["split"]["groups_without_val"] == ["PET_STS"]
    assert report.manifest["groups"]["PET_STS"] == {"modality": "PET", "train": 2, "val": 0}


def test_patient_pattern_joins_the_volumes_of_a_patient(tmp_path: Path) -> None:
    gts = np.ones((2, 9, 9), np.uint8)
    for patient in range(5):
        for sequence in ("T1", "FLAIR"):
            save(
                tmp_path / "raw" / f"MR_BraTS_{sequence}_p{patient}.npz",
                imgs=picture(patient, 2, 9, 9),
                gts=gts,
            )
    report = pack(tmp_path / "raw", tmp_path / "out", patient_pattern=r"(p\d+)$", val_fraction=0.2)
    assert report.manifest["groups"]["MR_BraTS"] == {"modality": "MR", "train": 16, "val": 4}
    assert len(report.manifest["split"]["val_subjects"]["MR_BraTS"]) == 1
    report = pack(tmp_path / "raw", tmp_path / "two", patient_pattern=r"T1_(p\d+)$")
    assert len(report.bad) == 5
    assert all("patient_pattern" in why for why in report.bad.values())


# ----------------------------------------------------------------------------------------- the same each time


def test_twice_gives_the_same_bytes_for_any_number_of_workers(raw: Path, tmp_path: Path) -> None:
    (raw / "bad.npz").write_bytes(b"")
    for name, workers in (("one", 1), ("again", 1), ("two", 2)):
        pack(raw, tmp_path / name, workers=workers, samples_per_shard=10)
    assert contents(tmp_path / "one") == contents(tmp_path / "again") == contents(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "one", "raw", "two"]


def test_the_seed_changes_the_split_and_not_the_shards(raw: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        pack(raw, tmp_path / str(seed), seed=seed, val_fraction=0.3)
    one, other = contents(tmp_path / "0"), contents(tmp_path / "1")
    assert {name for name in one if one[name] != other[name]} == {INDEX_NAME, MANIFEST_NAME}


def test_members_carry_no_trace_of_machine_and_time(raw: Path, tmp_path: Path) -> None:
    pack(raw, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        infos = tar.getmembers()
    assert {(i.mtime, i.uname, i.gname, i.uid, i.gid, i.mode) for i in infos} == {(0, "", "", 0, 0, 0o644)}
    assert {info.name.split(".", 1)[1] for info in infos} == {"png", "rle.json", "meta.json"}


@pytest.mark.parametrize("workers", [1, 2])
def test_few_cases_are_under_way_at_once(workers: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(20):
            taken += 1
            yield item

    for done, result in enumerate(in_order(abs, items(), workers)):
        assert result == done
        assert taken - done <= 2 * workers


# -------------------------------------------------------------------------------------------------- bad input


def test_bad_files_are_named_left_out_and_counted(raw: Path, tmp_path: Path) -> None:
    (raw / "empty.npz").write_bytes(b"")
    whole = (raw / "US" / "US_HC18_000.npz").read_bytes()
    (raw / "US_HC18_cut.npz").write_bytes(whole[:-100])
    save(raw / "US_HC18_nogts.npz", imgs=picture(0, 9, 9))
    save(raw / "US_HC18_objects.npz", imgs=picture(0, 9, 9), gts=np.array([[None]]))
    save(raw / f"US_HC18_{'long' * 20}.npz", imgs=picture(0, 9, 9), gts=np.ones((9, 9), np.uint8))
    report = pack(raw, tmp_path / "out")
    assert set(report.bad) == {path.name for path in raw.glob("*.npz")}
    assert len(report.bad) == 5
    assert report.manifest["cases"] == {"found": 29, "bad": report.bad}
    assert all("\n" not in reason and str(tmp_path) not in reason for reason in report.bad.values())
    assert report.manifest["samples"] == 42


def test_exit_codes(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import graysam.pack

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["pack", *arguments])
        code = importlib.reload(graysam.pack).main()  # as in a process of its own
        return code, capsys.readouterr().err.strip()

    monkeypatch.chdir(tmp_path)
    given = (f"input_dir={raw}", "output_dir=out", "workers=1")
    assert run(*given)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"], "no run folders, no logs"
    code, line = run(*given)
    assert code == 2
    assert "overwrite=true" in line
    assert "\n" not in line
    (raw / "empty.npz").write_bytes(b"")
    code, line = run(*given, "overwrite=true")
    assert code == 1
    assert "left out: empty.npz" in line
    assert "1 of 25 files" in line
    for arguments in (
        given[1:],
        given[:1],
        (*given, "overwrite=yes"),
        (*given, "val_fraction=1"),
        (*given, "workers=0"),
        (*given, "workers=two"),
        (*given, "samples_per_shard=0", "overwrite=true"),
        (*given, "spacing_order=zxy"),
        (*given, "source=dicom"),
        (*given, "patient_pattern=abc"),
        (f"input_dir={tmp_path}/absent", "output_dir=new"),
        (f"input_dir={tmp_path}/out", "output_dir=new"),
    ):
        code, line = run(*arguments)
        assert (code, line.count("\n")) == (2, 0), (arguments, line)
        assert line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]
    assert len(ShardIndex.load("out")) == 42


def test_folder_of_bad_files_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"none of 1 NPZ files gave a sample.*a.npz"):
        pack(tmp_path / "raw", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_same_names_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        save(tmp_path / "raw" / folder / "US_A_1.npz", imgs=picture(0, 9, 9), gts=np.ones((9, 9), np.uint8))
    with pytest.raises(ValueError, match=r"a/US_A_1.npz and b/US_A_1.npz"):
        pack(tmp_path / "raw", tmp_path / "out")
    sample = encode_sample("k", SQUARE, {1: SQUARE == 1}, group="g", modality="m", meta=META)
    with ShardWriter(tmp_path, 5) as writer:
        writer.write(sample)
        with pytest.raises(ShardError, match="occurs twice"):
            writer.write(sample)


def test_foreign_folders_are_never_replaced(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis.txt"):
        pack(raw, tmp_path / "mine", overwrite=True)
    pack(raw, tmp_path / "out")
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis.txt"):
        pack(raw, tmp_path / "out", overwrite=True)


def test_failure_on_the_way_leaves_the_old_shards(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(raw, tmp_path / "out")
    before = contents(tmp_path / "out")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ShardWriter, "finish", full)
    with pytest.raises(OSError, match="space"):
        pack(raw, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "raw",
    ]


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
    sample = encode_sample("k", SQUARE, {1: SQUARE == 1}, group="g", modality="m", meta=META)
    return {"k.png": sample.png, "k.rle.json": sample.rle, "k.meta.json": sample.meta}


@pytest.mark.parametrize("name", ["k.pkl", "k.pyd", "k.pth", "k.rle.json.pkl", "other.png", "../k.png", "k.png"])
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


def test_links_are_refused(tmp_path: Path) -> None:
    reader = forge(tmp_path / "s", good_members())
    link = tarfile.TarInfo("k.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    shard = tmp_path / "s" / "shard-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(link.tobuf() + content[512:])
    with pytest.raises(ShardError, match="unexpected member"):
        reader.read(0)


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("k.png", b"no png"),
        ("k.png", b""),
        ("k.png", cv2.imencode(".png", np.zeros((256, 200), np.uint16))[1].tobytes()),
        ("k.png", cv2.imencode(".png", np.zeros((256, 200, 4), np.uint8))[1].tobytes()),
        ("k.png", cv2.imencode(".png", np.zeros((256, 199), np.uint8))[1].tobytes()),
        ("k.rle.json", b"{"),
        ("k.rle.json", b"{}"),
        ("k.rle.json", b"[]"),
        ("k.rle.json", b'{"1":{"size":[256,200]}}'),
        ("k.rle.json", b'{"one":{"size":[256,200],"counts":"0"}}'),
        ("k.meta.json", b"nothing"),
        ("k.meta.json", b"3"),
    ],
)
def test_damaged_members_are_refused(tmp_path: Path, member: str, content: bytes) -> None:
    reader = forge(tmp_path / "s", {**good_members(), member: content})
    with pytest.raises(ShardError, match="sample k"):
        reader.read(0)


@pytest.mark.parametrize("counts", ["", "0", "zzzzzzzz", "~~~~", "é", 7])
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
        (shard, lambda content: content + bytes(512), "bytes"),
        (shard, lambda content: content[:-1024], "bytes"),
        (index, lambda content: content.replace(b"val", b"train", 1), "changed after packing"),
        (tmp_path / "out" / MANIFEST_NAME, lambda content: content[:-9], "JSON"),
        (tmp_path / "out" / MANIFEST_NAME, lambda content: b"[]", "format"),
        (tmp_path / "out" / MANIFEST_NAME, lambda content: content.replace(b'"bytes"', b'"size"'), "bytes"),
    ):
        content = path.read_bytes()
        path.write_bytes(change(content))
        with pytest.raises(ShardError, match=word):
            ShardIndex.load(tmp_path / "out")
        path.write_bytes(content)
    ShardIndex.load(tmp_path / "out")
    for cut in (0, 100, 700, 1500):
        shard.write_bytes(content[:cut])
        with pytest.raises(ShardError):
            reader.read(0)
    shard.unlink()
    with pytest.raises(ShardError, match="not readable"):
        reader.read(0)
    with pytest.raises(ShardError, match="no such file"):
        ShardIndex.load(tmp_path / "out")


def test_real_cases_are_packed_without_leaks(medseg_mini: Path, tmp_path: Path) -> None:
    report = pack(medseg_mini / "train_npz", tmp_path / "out", workers=2, val_fraction=0.1)
    assert not report.bad
    assert report.manifest["samples"] == 3614
    held_out = report.manifest["split"]["val_subjects"]
    assert held_out["CT_STS"] == held_out["MR_STS"] == held_out["PET_STS"]
    assert len(held_out["CT_STS"]) == 4
    assert {group: len(subjects) for group, subjects in held_out.items()} == {
        "CT_STS": 4,
        "Dermoscopy": 1,
        "MR_STS": 4,
        "Microscopy": 30,
        "PET_STS": 4,
        "US": 30,
    }
