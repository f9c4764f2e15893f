"""Folders written whole, also where a rename replaces nothing, as on Windows."""

from pathlib import Path

import pytest

from graysam.system.files import replacing_folder


@pytest.fixture(params=["posix", "windows"])
def renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rename as this system does, and as Windows does, which refuses a target that exists."""
    rename = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if target.exists():
            raise FileExistsError(target)
        return rename(self, target)

    if request.param == "windows":
        monkeypatch.setattr(Path, "rename", refusing)


@pytest.mark.usefixtures("renames")
@pytest.mark.parametrize("replace_existing", [True, False])
def test_an_empty_folder_is_replaced_in_any_case(tmp_path: Path, replace_existing: bool) -> None:
    (tmp_path / "out").mkdir()
    with replacing_folder(tmp_path / "out", replace_existing=replace_existing) as folder:
        (folder / "new").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/new"]


@pytest.mark.usefixtures("renames")
def test_a_full_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with (
        pytest.raises(FileExistsError, match="made by another process"),
        replacing_folder(tmp_path / "out", replace_existing=False) as folder,
    ):
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
    with replacing_folder(tmp_path / "out") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]
