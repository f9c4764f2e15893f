"""Files and folders written whole: links followed, streams written to, what cannot be renamed filled in place."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from graysam.system.files import replacing, replacing_folder

posix = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX systems")


def write(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("new")


def run_as_root(*command: object) -> None:
    """Run a command that needs root, or skip the test with its answer."""
    try:
        subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{command[0]}: {getattr(error, 'stderr', error)}")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Return an empty folder on a disk of its own."""
    (folder := tmp_path / "mounted").mkdir()
    run_as_root("mount", "-t", "tmpfs", "none", folder)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@posix
@pytest.mark.parametrize("target", ["old", None], ids=["link", "dangling"])
def test_a_link_is_followed_and_permissions_are_kept(tmp_path: Path, target: str | None) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real", tmp_path / "link"
    link.symlink_to(real)
    if target is not None:
        real.write_text(target)
        real.chmod(0o600)
    write(link)
    assert link.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == (0o600 if target else 0o666 & ~_umask())
    assert [path.name for path in real.parent.iterdir()] == ["real"]


def _umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


@posix
def test_a_fifo_gets_the_text_and_stays_one(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
    reader.start()
    write(fifo)
    reader.join(10)
    assert got == ["new"] and fifo.is_fifo()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")
def test_a_process_substitution_gets_the_text() -> None:
    reading, writing = os.pipe()
    write(Path(f"/dev/fd/{writing}"))
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read() == "new"


@posix
def test_a_device_stays_one(tmp_path: Path) -> None:
    device = tmp_path / "null"
    run_as_root("mknod", device, "c", 1, 3)
    write(device)
    assert device.is_char_device()


@posix
def test_the_standard_output_is_written_where_it_stands(tmp_path: Path) -> None:
    """Also where it goes into a file, which would lose what is printed if it were replaced."""
    code = (
        "from pathlib import Path; from graysam.system.files import replacing; print('before')\n"
        "with replacing(Path('/dev/stdout')) as file: file.write_text('new ')\n"
        "print('after')"
    )
    with (tmp_path / "out").open("w") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file)
    assert (tmp_path / "out").read_text() == "before\nnew after\n"


@posix
@pytest.mark.parametrize("trouble", ["mounted file", "locked folder", "EBUSY", "EACCES", "EROFS"])
def test_what_cannot_be_replaced_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, trouble: str
) -> None:
    (folder := tmp_path / "folder").mkdir()
    (path := folder / "table.csv").write_text("old and longer")
    before = path.stat().st_ino
    if trouble == "mounted file":
        (host := tmp_path / "host.csv").write_text("old and longer")
        run_as_root("mount", "--bind", host, path)
        request.addfinalizer(lambda: subprocess.run(["umount", str(path)], check=True))
        before = host.stat().st_ino
    elif trouble == "locked folder":
        run_as_root("chattr", "+i", folder)
        request.addfinalizer(lambda: subprocess.run(["chattr", "-i", str(folder)], check=True))
    else:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(getattr(errno, trouble), "refused")

        monkeypatch.setattr(Path, "replace" if trouble == "EBUSY" else "touch", refuse)
    write(path)
    assert (path.read_text(), path.stat().st_ino) == ("new", before)
    assert [path.name for path in folder.iterdir()] == ["table.csv"]


def test_a_file_that_cannot_be_made_is_an_error_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.table"):
        write(tmp_path / "absent" / "table")


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (path := tmp_path / "file").write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


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
    with replacing_folder(tmp_path / "out", last="new", replace_existing=replace_existing) as folder:
        (folder / "new").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/new"]


@pytest.mark.usefixtures("renames")
def test_a_full_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with (
        pytest.raises(FileExistsError, match="exists and is not empty"),
        replacing_folder(tmp_path / "out", last="new", replace_existing=False),
    ):
        pytest.fail("it is refused before the work")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
    with replacing_folder(tmp_path / "out", last="new") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


@pytest.mark.usefixtures("renames")
def test_a_folder_that_another_process_made_meanwhile_stays(tmp_path: Path) -> None:
    def make() -> None:
        with replacing_folder(tmp_path / "out", last="new", replace_existing=False) as folder:
            (folder / "new").touch()
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

    with pytest.raises(FileExistsError, match="made by another process"):
        make()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


@posix
@pytest.mark.parametrize("place", ["mount point", "current folder", "EBUSY"])
def test_a_folder_that_cannot_be_renamed_is_filled_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, place: str
) -> None:
    """The manifest comes last, and goes first when the folder is filled again."""
    (out := tmp_path / "mounted").mkdir()
    rename, unlink, steps = os.rename, Path.unlink, list[str]()
    if place == "mount point":
        out.rmdir()
        request.getfixturevalue("mounted")
        (out / "lost+found").mkdir()
    elif place == "current folder":
        monkeypatch.chdir(out)
    else:

        def refuse(path: Path, *_: object) -> None:
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))

        monkeypatch.setattr(Path, "rename", refuse)
        monkeypatch.setattr(Path, "rmdir", refuse)
    monkeypatch.setattr(os, "rename", lambda a, b: (steps.append(f"+{Path(b).name}"), rename(a, b)))
    monkeypatch.setattr(Path, "unlink", lambda path, **_: (steps.append(f"-{path.name}"), unlink(path)))
    before = out.stat().st_ino
    for replace_existing in (False, True):
        steps.clear()
        with replacing_folder(out, last="manifest.json", replace_existing=replace_existing) as folder:
            for name in ("a", "manifest.json", "z"):
                (folder / name).write_text(str(replace_existing))
        assert steps == [*["-manifest.json", "-a", "-z"] * replace_existing, "+a", "+z", "+manifest.json"]
        held = {path.name: path.read_text() for path in out.iterdir() if path.is_file()}
        assert held == dict.fromkeys(("a", "manifest.json", "z"), str(replace_existing))
    assert out.stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["mounted"]
