"""Every entry of a folder is listed, or counted with its reason."""

import os
from pathlib import Path

import pytest

from graysam.io.listing import case_path, case_paths, list_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with all that may lie in one."""
    place = tmp_path / "in"
    (place / "deeper").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("a.npz", "b.NPZ", "._a.npz", "notes.txt", "c.npz.gz", "deeper/d.npz", "../elsewhere/e.npz"):
        (place / name).touch()
    (place / "f.npz").symlink_to("not/fetched/yet.npz")
    (place / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (place / "loop").symlink_to(place, target_is_directory=True)
    os.mkfifo(place / "g.npz")
    return place


def test_every_entry_is_listed_or_counted(folder: Path) -> None:
    listing = list_folder(folder)
    assert [path.name for path in listing.files] == ["a.npz", "b.NPZ", "f.npz"]
    assert listing.not_read == {"hidden": 1, "folders": 3, "of other kinds than .npz": 2, "special files": 1}
    assert sum(listing.not_read.values()) + len(listing.files) == len(os.listdir(folder))
    (line,) = listing.describe(folder)
    assert line.startswith(f"not read in {folder}: 3 folders, 1 hidden, 2 of other kinds than .npz")


def test_the_manifest_of_results_is_no_entry(folder: Path) -> None:
    before = list_folder(folder)
    (folder / ".graysam.jsonl").touch()
    assert list_folder(folder) == before


def test_linked_folders_are_searched_once(folder: Path) -> None:
    listing = list_folder(folder, recursive=True)
    files = [path.relative_to(folder).as_posix() for path in listing.files]
    assert files == ["a.npz", "b.NPZ", "deeper/d.npz", "f.npz", "linked/e.npz"]
    assert listing.not_read["folders that were searched before"] == 1


def test_a_case_is_found_by_its_name_whatever_the_suffix(folder: Path) -> None:
    assert case_path(folder, "b").name == "b.NPZ"
    assert case_path(folder, "a").name == "a.npz"
    assert case_path(folder, "absent").name == "absent.npz"
    assert len(case_paths(folder, "-i")) == 3
    (folder / "a.NPZ").touch()
    if not (folder / "a.NPZ").samefile(folder / "a.npz"):
        with pytest.raises(ValueError, match=r"-i .*: a.NPZ and a.npz are the same case; rename one"):
            case_paths(folder, "-i")
