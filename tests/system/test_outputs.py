"""What may be written over: what the manifest of a folder lists, what bears graysam's mark, and never an input."""

import os
from pathlib import Path

import pytest

from graysam.system.outputs import MANIFEST, OutputFolder, check_output_file, check_output_folder


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    """Return a folder with the results a and b of the inputs in/a and in/b."""
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    folder = OutputFolder(tmp_path / "out")
    for name in "ab":
        (tmp_path / "in" / name).write_text(f"input {name}")
        (folder.path / name).write_text(f"result {name}")
        folder.record(name, tmp_path / "in" / name)
    return OutputFolder(tmp_path / "out")


def inputs(folder: OutputFolder) -> list[Path]:
    return sorted(folder.path.with_name("in").iterdir())


def test_own_results_may_be_written_over_and_others_not(folder: OutputFolder) -> None:
    folder.check(["a", "b", "c"], inputs(folder), overwrite=False)
    (folder.path / "a").write_text("edited by hand")
    (folder.path / "c").write_text("of another program")
    (folder.path / "of no case").write_text("not in the way")
    with pytest.raises(ValueError, match=r"holds 2 files .* first a; give another folder, or --overwrite"):
        folder.check(["a", "b", "c"], inputs(folder), overwrite=False)
    folder.check(["a", "b", "c"], inputs(folder), overwrite=True)


@pytest.mark.parametrize("tail", [b'{"name": "a", "sha', b"\xff\n", b"[1]\nnull\n{}\n"])
def test_a_torn_manifest_is_read_and_continued(folder: OutputFolder, tail: bytes) -> None:
    with (folder.path / MANIFEST).open("ab") as file:
        file.write(tail)
    (folder.path / "c").write_text("result c")
    folder.record("c", inputs(folder)[0])
    folder.check(["a", "b", "c"], inputs(folder), overwrite=False)


@pytest.mark.parametrize("how", ["link", "hard link", "linked folder"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_written_over_by_whatever_name(folder: OutputFolder, how: str, overwrite: bool) -> None:
    """Nor where letters in capitals are the same name, which gives the same identity as a hard link."""
    path = folder.path / "new"
    if how == "linked folder":
        (folder.path.parent / "more").symlink_to(folder.path.with_name("in"))
        folder, path = OutputFolder(folder.path.parent / "more"), folder.path.parent / "more" / "a"
    else:
        (os.symlink if how == "link" else os.link)(inputs(folder)[0], path)
    with pytest.raises(ValueError, match=f"{path.name} is a file that this run reads"):
        folder.check([path.name], inputs(OutputFolder(folder.path)), overwrite=overwrite)
    with pytest.raises(ValueError, match="is a file that this run reads"):
        check_output_file(path, "input", inputs=inputs(folder), overwrite=overwrite)


def test_stale_results_are_removed_others_are_named(folder: OutputFolder) -> None:
    (folder.path / "b").write_text("edited by hand")
    assert folder.remove_stale("a") == f"; {folder.path / 'a'} of an earlier run is removed"
    assert folder.remove_stale("b") == f"; {folder.path / 'b'} is not of this run"
    assert folder.remove_stale("c") == ""
    folder.record("b", inputs(folder)[0])
    assert folder.remove_stale("b") == "", "written in this run"
    assert [path.name for path in sorted(folder.path.iterdir())] == [MANIFEST, "b"]


@pytest.mark.parametrize(("content", "allowed"), [("", True), ("ours: x", True), ("theirs", False), (None, True)])
def test_a_file_must_bear_the_mark(tmp_path: Path, content: str | None, allowed: bool) -> None:
    path = tmp_path / "table"
    if content is not None:
        path.write_text(content)
    check_output_file(path, "ours", overwrite=True)
    if allowed:
        check_output_file(path, "ours")
    else:
        with pytest.raises(ValueError, match=r"graysam has not written it; give another name, or --overwrite"):
            check_output_file(path, "ours")


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    for path in (tmp_path / "table", tmp_path / "new" / "table"):
        with pytest.raises(ValueError, match=f"{path} cannot be written: no permission for {tmp_path};"):
            check_output_file(path, "ours")
        with pytest.raises(ValueError, match="cannot be written"):
            check_output_folder(path, "a", "a", "a", "-o")
        with pytest.raises(ValueError, match="cannot be written"):
            OutputFolder(path).check(["a"], [], overwrite=True)
