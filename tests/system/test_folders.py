"""Where what can be made again is kept: a folder the user chose, or the platform's."""

import sys
from pathlib import Path

import pytest

from graysam.system.environment import has_home, user_cache_dir, weight_places, with_home


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "HOME/.cache/graysam"),
        ({"XDG_CACHE_HOME": "HOME/xdg"}, "HOME/xdg/graysam"),
        ({"XDG_CACHE_HOME": "HOME/xdg", "GRAYSAM_CACHE": "HOME/mine"}, "HOME/mine"),
        ({"GRAYSAM_CACHE": "~/x"}, "HOME/x"),
        ({"XDG_CACHE_HOME": "", "GRAYSAM_CACHE": ""}, "HOME/.cache/graysam"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="platformdirs knows the others")
def test_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: str
) -> None:
    for name in ("GRAYSAM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "HOME", **variables}.items():
        monkeypatch.setenv(name, value.replace("HOME", str(tmp_path)))
    assert user_cache_dir() == Path(wanted.replace("HOME", str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_no_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("GRAYSAM_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", no_home)
    with pytest.raises(ValueError, match="there is no home folder to keep a cache in; set GRAYSAM_CACHE"):
        user_cache_dir()


def test_a_tilde_means_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("GRAYSAM_WEIGHTS", "~/w")
    assert next(iter(weight_places().values())) == tmp_path / "w"
    assert with_home("a/~") == "a/~"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no table of accounts")
def test_a_tilde_without_a_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: object) -> None:
        raise KeyError(number)

    assert has_home()
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert not has_home()
    monkeypatch.setenv("GRAYSAM_CACHE", "~/x")
    with pytest.raises(ValueError, match="the home folder of ~/x is not known; give the path in full, or set HOME"):
        user_cache_dir()
