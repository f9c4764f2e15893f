"""Write files and folders whole, wherever they can be written, and hash files."""

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

# What the system answers where a file or folder may be written but not replaced; on Windows EACCES means it is open.
NOT_REPLACEABLE = {errno.EBUSY, errno.EPERM, errno.EXDEV, errno.EROFS}
NOT_REPLACEABLE |= set() if sys.platform == "win32" else {errno.EACCES}
_LOST_AND_FOUND = "lost+found"  # of an empty disk


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces it when the block succeeds; else `path` stays as it was.

    A link is followed, and the permissions of a file that is there are kept. Written to, and never replaced, are a
    stream (`is_stream`) and a file that cannot be replaced: mounted by itself, or in a folder where nothing may be
    made. Raises OSError as the file system does.
    """
    target, in_place = Path(os.path.realpath(path)), is_stream(path)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")  # not longer than any name may be
    with ExitStack() as cleanup:
        if not in_place:
            try:
                temporary.touch(exist_ok=False)
                cleanup.callback(temporary.unlink, missing_ok=True)
            except OSError as error:
                if not (in_place := error.errno in NOT_REPLACEABLE and target.is_file()):
                    error.filename = os.fspath(path)
                    raise
        if in_place:
            import tempfile  # only here: it takes time to import

            temporary = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="graysam_")), "output")
        yield temporary
        if not in_place:
            try:
                if target.exists():
                    shutil.copystat(target, temporary)
                    os.utime(temporary)
                temporary.replace(target)
                return
            except OSError as error:
                if error.errno not in NOT_REPLACEABLE or not target.is_file():
                    raise
        with temporary.open("rb") as source, _open_in_place(path) as file:
            shutil.copyfileobj(source, file)


def is_stream(path: Path) -> bool:
    """Return whether a path is a FIFO, a device or the like, or where this process's standard output goes."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    return _is_stdout(found) or not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))


def _is_stdout(found: os.stat_result) -> bool:
    with suppress(OSError):  # it may be closed, and another file may have its number then
        return sys.stdout is not None and os.path.samestat(found, os.fstat(1))
    return False


def _open_in_place(path: Path) -> Any:
    """Open a file to write from its beginning, or the standard output to write where it stands."""
    if not _is_stdout(os.stat(path)):
        return path.open("wb")
    sys.stdout.flush()
    return os.fdopen(os.dup(1), "wb")


@contextmanager
def replacing_folder(path: Path, *, last: str, replace_existing: bool = True) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `path` when the block succeeds; else `path` stays as it was.

    A folder that cannot be renamed, such as a mount point, and the current folder are filled in place: the file `last`,
    without which the folder is not read, is removed first and written last.

    Raises:
        FileExistsError: `path` exists, is not empty and is not to be replaced, or was made meanwhile.
        OSError: as the file system does.
    """
    path = Path(os.path.realpath(path))
    mark = uuid.uuid4().hex[:12]
    temporary, old = (path.with_name(f".{path.name}.{mark}.{what}") for what in ("tmp", "old"))
    in_place = path.is_dir() and (
        os.path.ismount(path) or Path.cwd().is_relative_to(path) or not os.access(path.parent, os.W_OK)
    )
    if in_place:
        temporary = path / temporary.name  # on the same disk
    if not replace_existing and entries(path):
        raise FileExistsError(f"{path} exists and is not empty")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if in_place or not _rename_folder(temporary, path, old, replace_existing):
            present = [entry for entry in entries(path) if entry != temporary]
            if present and not replace_existing:
                raise FileExistsError(f"{path} was made by another process meanwhile")
            for entry in sorted(present, key=lambda entry: entry.name != last):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            for entry in sorted(entries(temporary), key=lambda entry: entry.name == last):
                shutil.move(entry, path / entry.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def entries(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted, without what every new disk holds; nothing where there is no folder."""
    return sorted(entry for entry in folder.iterdir() if entry.name != _LOST_AND_FOUND) if folder.is_dir() else []


def _rename_folder(temporary: Path, path: Path, old: Path, replace_existing: bool) -> bool:
    """Rename a folder to `path`, what is there to `old`; return whether `path` can be renamed."""
    try:
        if replace_existing:
            with suppress(FileNotFoundError):
                path.rename(old)
        else:
            with suppress(OSError):
                path.rmdir()  # an empty one, which Windows would not replace
        temporary.rename(path)
        return True
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        elif path.exists() and error.errno not in NOT_REPLACEABLE:
            raise FileExistsError(f"{path} was made by another process meanwhile") from None
        if error.errno in NOT_REPLACEABLE and path.is_dir():
            return False
        raise


def write_json_file(path: Path, document: Any) -> None:
    """Write a JSON file atomically, keys in their order.

    Raises:
        ValueError: numbers that are not finite.
        OSError: as the file system does.
    """
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
