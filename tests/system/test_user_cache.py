"""Where what can be made again is kept: a folder the user chose, or the platform's."""

from pathlib import Path

import pytest

from graysam.system.folders import user_cache_dir


@pytest.mark.parametrize(
    ("variables", "platform", "wanted"),
    [
        ({}, "linux", "HOME/.cache/graysam"),
        ({}, "darwin", "HOME/Library/Caches/graysam"),
        ({"LOCALAPPDATA": "HOME/AppData/Local"}, "win32", "HOME/AppData/Local/graysam/Cache"),
        ({"XDG_CACHE_HOME": "HOME/xdg"}, "linux", "HOME/xdg/graysam"),
        ({"XDG_CACHE_HOME": "HOME/xdg", "GRAYSAM_CACHE": "HOME/mine"}, "linux", "HOME/mine"),
        ({"XDG_CACHE_HOME": "", "GRAYSAM_CACHE": ""}, "linux", "HOME/.cache/graysam"),
    ],
)
def test_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], platform: str, wanted: str
) -> None:
    for name in ("GRAYSAM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("HOME", str(tmp_path)))
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert user_cache_dir() == Path(wanted.replace("HOME", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_no_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GRAYSAM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ValueError, match="there is no home folder to keep a cache in; set GRAYSAM_CACHE"):
        user_cache_dir()
