"""The split: no patient on both sides in any modality, and every group keeps training subjects."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graysam.data.shards import ShardReader, load_manifest
from graysam.data.split import Subject, hold_out
from tests.support.packing import pack, picture, save


def sides(folder: Path) -> dict[tuple[str, str], set[str]]:
    """Return the splits in which each patient's samples were written."""
    reader = ShardReader(folder)
    found: dict[tuple[str, str], set[str]] = {}
    for row in range(len(reader)):
        meta = reader.read(row).meta
        found.setdefault((meta["dataset"], meta["subject_id"]), set()).add(str(reader.splits[row]))
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_no_patient_is_on_both_sides_in_any_modality(raw: Path, tmp_path: Path, seed: int) -> None:
    pack(raw, tmp_path / "out", val_fraction=0.25, seed=seed)
    patients = sides(tmp_path / "out")
    assert len(patients) == 14
    assert all(len(side) == 1 for side in patients.values())
    reader = ShardReader(tmp_path / "out")
    assert all(len(reader.rows(split, group)) for group in np.unique(reader.groups) for split in ("train", "val"))
    held_out = load_manifest(tmp_path / "out")["split"]["val_subjects"]
    assert len(held_out["PET_STS"]) == 1
    assert held_out["CT_STS"] == held_out["MR_STS"]


@pytest.mark.parametrize(("split_by", "leaks"), [("patient", False), ("slice", True)])
def test_a_split_by_slice_leaks_patients_and_one_by_patient_does_not(
    raw: Path, tmp_path: Path, split_by: str, leaks: bool
) -> None:
    """The leak is measured on what is written, and the manifest agrees."""
    pack(raw, tmp_path / "out", split_by=split_by, val_fraction=0.25)
    on_both = sum(len(side) == 2 for side in sides(tmp_path / "out").values())
    assert (on_both > 0) == leaks
    reader = ShardReader(tmp_path / "out")
    assert len(reader.rows("val", "CT_STS")) == 4, "a quarter of 16 slices, or of 8 patients with two slices each"
    split = load_manifest(tmp_path / "out")["split"]
    assert split["split_by"] == split_by
    assert split["patients_on_both_sides"] == on_both
    held_out = split["val_subjects"]["CT_STS"]
    assert len(held_out) == (4 if leaks else 2)
    assert all(("_z" in name) == leaks for name in held_out)


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
    manifest = pack(raw, tmp_path / "out")
    assert manifest["split"]["groups_without_val"] == ["PET_STS"]
    assert manifest["groups"]["PET_STS"] == {"modality": "PET", "train": 2, "val": 0}


def test_patient_pattern_joins_the_volumes_of_a_patient(tmp_path: Path) -> None:
    gts = np.ones((2, 9, 9), np.uint8)
    for patient in range(5):
        for sequence in ("T1", "FLAIR"):
            path = tmp_path / "raw" / f"MR_BraTS_{sequence}_p{patient}.npz"
            save(path, imgs=picture(patient, 2, 9, 9), gts=gts)
    manifest = pack(tmp_path / "raw", tmp_path / "out", patient_pattern=r"(p\d+)$", val_fraction=0.2)
    assert manifest["groups"]["MR_BraTS"] == {"modality": "MR", "train": 16, "val": 4}
    assert len(manifest["split"]["val_subjects"]["MR_BraTS"]) == 1
    manifest = pack(tmp_path / "raw", tmp_path / "two", patient_pattern=r"T1_(p\d+)$")
    assert len(manifest["cases"]["bad"]) == 5
    assert all("patient_pattern" in why for why in manifest["cases"]["bad"].values())


def test_data_sets_are_groups_and_can_be_left_out_whole(tmp_path: Path) -> None:
    for name in ("US_one_1", "US_one_2", "US_two_1", "US_two_2", "US_three_1", "US_three_2"):
        gts = np.zeros((256, 256), np.uint8)
        gts[9:19, 9:19] = 1
        save(tmp_path / "raw" / f"{name}.npz", imgs=picture(1, 256, 256, 3), gts=gts)
    assert set(pack(tmp_path / "raw", tmp_path / "out")["groups"]) == {"US"}
    manifest = pack(tmp_path / "raw", tmp_path / "two", group_by="dataset", exclude_datasets=["one"])
    assert {name: counts["train"] + counts["val"] for name, counts in manifest["groups"].items()} == {
        "US_three": 2,
        "US_two": 2,
    }
    assert manifest["groups"]["US_two"]["modality"] == "US"
    assert manifest["packing"]["exclude_datasets"] == ["one"]
    with pytest.raises(ValueError, match="exclude_datasets: no file of on; there are one, three, two"):
        pack(tmp_path / "raw", tmp_path / "no", exclude_datasets=["on"])
    with pytest.raises(ValueError, match="leaves out every file"):
        pack(tmp_path / "raw", tmp_path / "no", exclude_datasets=["one", "two", "three"])


def test_real_cases_are_packed_without_leaks(medseg_mini: Path, tmp_path: Path) -> None:
    manifest = pack(medseg_mini / "train_npz", tmp_path / "out", workers=2, val_fraction=0.1)
    assert not manifest["cases"]["bad"]
    assert manifest["samples"] == 3614
    held_out = manifest["split"]["val_subjects"]
    assert held_out["CT_STS"] == held_out["MR_STS"] == held_out["PET_STS"]
    counts = {group: len(subjects) for group, subjects in held_out.items()}
    assert counts == {"CT_STS": 4, "Dermoscopy": 1, "MR_STS": 4, "Microscopy": 30, "PET_STS": 4, "US": 30}
