"""Packing: shards hold what the cases hold, byte-identical each time, and bad input is one line."""

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.data.packing import run_pack
from graysam.data.shard_writing import ShardWriter
from graysam.data.shards import INDEX_NAME, MANIFEST_NAME, ShardReader, load_manifest
from tests.support.packing import DEFAULTS, contents, pack, picture, save


# ------------------------------------------------------------------------------------------------------ truth
def test_packed_folder_holds_what_the_cases_hold(raw: Path, tmp_path: Path) -> None:
    manifest = pack(raw, tmp_path / "out", val_fraction=0.25, samples_per_shard=7)
    reader = ShardReader(tmp_path / "out")
    counts = {str(group): len(reader.rows(group=group)) for group in np.unique(reader.groups)}
    assert counts == {"CT_STS": 16, "MR_STS": 16, "PET_STS": 4, "US": 6}
    assert manifest == load_manifest(tmp_path / "out")
    assert manifest["cases"]["bad"] == {}
    assert manifest["left_out"] == {"slices_without_objects": 36}
    assert manifest["groups"]["CT_STS"] == {"modality": "CT", "train": 12, "val": 4}
    assert [shard["samples"] for shard in manifest["shards"]] == [7, 7, 7, 7, 7, 7]
    assert len(np.unique(reader.keys)) == len(reader) == 42
    for shard in manifest["shards"]:
        content = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    sample = reader.read(int(np.flatnonzero(reader.keys == "CT_STS_STS003_z0002")[0]))
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
    us = reader.read(int(reader.rows(group="US")[0]))
    assert us.image.shape == (160, 256), "three equal channels are stored as one"
    assert us.mask(1)[44:76, 124:236].all()
    assert us.mask(1).sum() == 40 * 120


def test_labels_that_vanish_are_dropped_and_counted(tmp_path: Path) -> None:
    gts = np.zeros((4096, 16), np.uint16)
    gts[0, 0], gts[1000:3000] = 700, 300
    save(tmp_path / "raw" / "US_A_1.npz", imgs=np.zeros((4096, 16), np.uint8), gts=gts)
    save(tmp_path / "raw" / "US_A_2.npz", imgs=np.zeros((4096, 16), np.uint8), gts=np.where(gts == 700, gts, 0))
    save(tmp_path / "raw" / "US_A_3.npz", imgs=np.zeros((9, 9), np.uint8), gts=np.zeros((9, 9), np.uint8))
    manifest = pack(tmp_path / "raw", tmp_path / "out")
    assert manifest["left_out"] == {
        "cases_without_samples": 2,
        "images_without_objects": 1,
        "labels_vanished_in_resizing": 2,
        "slices_emptied_by_resizing": 1,
    }
    assert ShardReader(tmp_path / "out").read(0).labels == (300,)


def test_what_is_not_read_and_notes_reach_the_user_and_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    units = np.arange(3 * 20 * 30, dtype=np.int16).reshape(3, 20, 30)
    gts = np.ones((3, 20, 30), np.uint8)
    for number in range(2):
        save(raw / f"CT_A_{number}.npz", imgs=units, gts=gts, spacing=np.array([-5.0, 1, 1][: 2 + number]))
    (raw / "CT_A_1.npz").rename(raw / "CT_A_1.NPZ")
    save(tmp_path / "elsewhere" / "US_A_1.npz", imgs=picture(0, 20, 30), gts=gts[0])
    (raw / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (raw / "US_A_2.npz").symlink_to("not/fetched/yet.npz")
    save(raw / "US_A_3.npz", imgs=picture(0, 20, 30, 3), gts=np.ones((20, 30, 3), np.uint8))
    for name in ("._CT_A_0.npz", "notes.txt"):
        (raw / name).write_bytes(b"x")
    given = {**DEFAULTS, "input_dir": str(raw), "output_dir": str(tmp_path / "out"), "workers": 1, "val_fraction": 0}
    assert run_pack(**{key: value for key, value in given.items() if key != "_target_"}) == 1
    manifest, error = load_manifest(tmp_path / "out"), capsys.readouterr().err
    assert manifest["cases"]["found"] == 5
    assert manifest["cases"]["not_read"] == {"hidden": 1, "of other kinds than .npz": 1}
    assert set(manifest["cases"]["bad"]) == {"US_A_2.npz", "US_A_3.npz"}
    assert "gts of shape (20, 30, 3) may be a volume" in manifest["cases"]["bad"]["US_A_3.npz"]
    (scaled,) = (note for note in manifest["notes"] if "int16" in note)
    assert manifest["notes"][scaled] == {"cases": 2, "first": "CT_A_0.npz"}
    assert f"note: 2 cases, first CT_A_0.npz: {scaled}\n" in error and "window" in scaled
    assert len(manifest["notes"]) == 3 and error.count("not used: spacing") == 2
    assert f"not read in {raw}: 1 hidden, 1 of other kinds than .npz" in error


def test_webdataset_can_stream_the_shards(raw: Path, tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    pack(raw / "US", tmp_path / "out")
    chosen = {"png", "rle.json", "meta.json"}
    with open(tmp_path / "out" / "shard-000000.tar", "rb") as stream:
        source = [{"url": "shard", "stream": stream}]
        members = tar_file_expander(source, select_files=lambda name: name.split(".", 1)[1] in chosen)
        samples = list(group_by_keys(members))
    assert [s["__key__"] for s in samples] == ShardReader(tmp_path / "out").keys.tolist()
    assert all(chosen <= set(s) for s in samples)


# --------------------------------------------------------------------------------------------- byte-identical
def test_shards_are_byte_identical_for_any_number_of_workers(raw: Path, tmp_path: Path) -> None:
    (raw / "bad.npz").write_bytes(b"")
    for name, workers in (("one", 1), ("two", 2)):
        pack(raw, tmp_path / name, workers=workers, samples_per_shard=10)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "raw", "two"]
    with tarfile.open(tmp_path / "one" / "shard-000000.tar") as tar:
        infos = tar.getmembers()
    assert {(i.mtime, i.uname, i.gname, i.uid, i.gid, i.mode) for i in infos} == {(0, "", "", 0, 0, 0o644)}


@pytest.mark.parametrize(("option", "values"), [("seed", (0, 1)), ("split_by", ("patient", "slice"))])
def test_another_split_leaves_the_shards_as_they_are(
    raw: Path, tmp_path: Path, option: str, values: tuple[Any, Any]
) -> None:
    for value in values:
        pack(raw, tmp_path / str(value), val_fraction=0.3, **{option: value})
    one, other = (contents(tmp_path / str(value)) for value in values)
    assert {name for name in one if one[name] != other[name]} == {INDEX_NAME, MANIFEST_NAME}


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dir": None}, "output_dir is not set"),
        ({"input_dir": None}, "input_dir is not set"),
        ({"input_dir": "absent"}, "absent is not a directory"),
        ({"val_fraction": 1}, "val_fraction"),
        ({"workers": 0}, "workers"),
        ({"samples_per_shard": 0}, "samples_per_shard"),
        ({"size": 8}, "size"),
        ({"patient_pattern": "("}, "patient_pattern"),
    ],
)
def test_settings_that_cannot_be_used_write_nothing(
    raw: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = {**DEFAULTS, "input_dir": str(raw), "output_dir": str(tmp_path / "out"), "workers": 1, **changes}
    with pytest.raises(ValueError, match=message) as caught:
        run_pack(**{key: value for key, value in given.items() if key != "_target_"})
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_shards_are_replaced_on_request_only(raw: Path, tmp_path: Path) -> None:
    before = pack(raw, tmp_path / "out")
    with pytest.raises(ValueError, match="overwrite=true"):
        pack(raw, tmp_path / "out")
    assert pack(raw, tmp_path / "out", overwrite=True) == before


@pytest.mark.parametrize("shards", [False, True])
def test_foreign_folders_are_never_replaced(raw: Path, tmp_path: Path, shards: bool) -> None:
    if shards:
        pack(raw, tmp_path / "out")
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis.txt"):
        pack(raw, tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("place", ["raw", "raw/out", "linked/new/out"])
def test_shards_among_the_cases_are_refused(raw: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "linked").symlink_to(raw)
    before = sorted(raw.rglob("*"))
    with pytest.raises(ValueError, match="lies in input_dir"):
        pack(raw, tmp_path / place, overwrite=True)
    assert sorted(raw.rglob("*")) == before


def test_the_current_folder_is_filled_in_place(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out := tmp_path / "out").mkdir()
    monkeypatch.chdir(out)
    before = out.stat().st_ino
    for overwrite in (False, True):
        pack(raw, Path(), overwrite=overwrite)
        assert load_manifest(out)["samples"] == len(ShardReader(Path())) > 0
    assert out.stat().st_ino == before


def test_failure_on_the_way_leaves_the_old_shards(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(raw, tmp_path / "out")
    before = contents(tmp_path / "out")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ShardWriter, "finish", full)
    with pytest.raises(OSError, match="space"):
        pack(raw, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]


def test_masks_of_255_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gts = np.zeros((20, 30), np.uint8)
    gts[5:9, 5:9] = 1
    for number, labels in enumerate((gts * 255, gts * 255, gts, np.maximum(gts * 255, 1))):
        save(tmp_path / "raw" / f"US_A_{number}.npz", imgs=picture(number, 20, 30), gts=labels)
    settings = {key: value for key, value in DEFAULTS.items() if key != "_target_"} | {"workers": 1}
    assert run_pack(**{**settings, "input_dir": str(tmp_path / "raw"), "output_dir": str(tmp_path / "out")}) == 0
    (note,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("note"))
    assert note.startswith("note: 2 cases, first US_A_0.npz: gts hold the label 255 alone; a mask of 0/255?")


@pytest.mark.parametrize(
    ("cases", "val_fraction", "reason"),
    [
        (["US_A_1", "US_A_2", "CT_A_3"], 0, "nothing is held out: val_fraction is 0; training needs held-out samples"),
        (["US_A_1", "CT_B_2", "CT_B_3"], 0.5, "nothing held out in US: it has one subject only"),
        (["US_A_1", "MR_A_1", "MR_A_2", "US_A_2"], 0.5, None),
        (["US_A_1", "US_A_2", "MR_A_1", "CT_A_2"], 0.5, "nothing held out in US: a group of one subject shares"),
    ],
)
def test_why_nothing_is_held_out_is_true_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: list[str], val_fraction: float, reason: str | None
) -> None:
    for number, case in enumerate(cases):
        gts = np.ones((20, 30), np.uint8)
        save(tmp_path / "raw" / f"{case}.npz", imgs=picture(number, 20, 30), gts=gts)
    settings = {key: value for key, value in DEFAULTS.items() if key != "_target_"} | {"workers": 1}
    settings["val_fraction"] = val_fraction
    assert run_pack(**{**settings, "input_dir": str(tmp_path / "raw"), "output_dir": str(tmp_path / "out")}) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "held out" in line]
    assert len([line for line in said if reason and line.startswith(reason)]) == (reason is not None)
    assert (len(said) == 0) == (reason is None) and (val_fraction or len(said) == 1)
