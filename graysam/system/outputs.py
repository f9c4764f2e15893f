"""What may be written over: results of graysam itself, and nothing that this run reads.

Every command asks here before it works. Its results over those of an earlier run are written without an option.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from graysam.system.files import entries, is_stream, sha256_of

MANIFEST = ".graysam.jsonl"  # of an OutputFolder
OVERWRITE_HELP = "also replace files that graysam has not written, or that have changed since"


def check_output_file(
    path: Path,
    mark: str,
    *,
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    marked: Path | None = None,
) -> None:
    """Refuse a file that cannot be written or must not be replaced; an empty file and a stream may be written to.

    Args:
        path: the file.
        mark: what the beginning of a file that graysam wrote holds.
        inputs: files that this run reads.
        overwrite: whether a file without the mark may be replaced; the target of a link may be anyway.
        marked: the file that holds the mark instead of `path`.

    Raises:
        ValueError: the file is a folder, an input or not graysam's, or cannot be written.
    """
    if path.is_dir():
        raise ValueError(f"-o {path} is a directory; required: a file name")
    if is_stream(path):
        return
    if _identities([path]) & _identities(inputs):
        raise ValueError(f"-o {path} is a file that this run reads; give another name")
    chosen = overwrite or path.is_symlink()  # who makes a link here wants its target written
    if path.is_file() and path.stat().st_size and not chosen and not _holds(marked or path, mark):
        raise ValueError(f"-o {path} exists, and graysam has not written it; give another name, or --overwrite")
    _check_writable(path, "-o")


def check_output_folder(path: Path, names: str, last: str, what: str, option: str) -> list[Path]:
    """Return what lies in a folder that is replaced as a whole; refuse one that holds other things or is read-only.

    Args:
        path: the folder.
        names: a regular expression of the names that it may hold.
        last: the name of the file without which it is not read.
        what: what it may hold, in words.
        option: that named it.

    Raises:
        ValueError: the path is a file, the folder holds something else, or it cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} {path} exists and is a file; required: a folder of {what}, or a new one")
    present = entries(path)
    foreign = [entry.name for entry in present if not re.fullmatch(names, entry.name)]
    if foreign or (present and not (path / last).is_file()):
        name = (foreign or [present[0].name])[0]
        raise ValueError(f"{option} {path} holds something else than {what} ({name}); choose a new folder")
    _check_writable(path, option)
    return present


class OutputFolder:
    """A folder of results, one for each case, and its manifest, which lists what graysam wrote: a JSON object a line.

    A file of which the manifest does not hold the present SHA-256 is foreign. Where the manifest cannot be written,
    all files are.

    Args:
        path: the folder; it need not exist.
        option: that named it.
    """

    def __init__(self, path: Path, option: str = "-o") -> None:
        self.path, self._option = path, option
        self._written: set[str] = set()  # in this run

    def check(self, names: Sequence[str], inputs: Sequence[Path], *, overwrite: bool) -> None:
        """Refuse the folder where files of these names must not be replaced.

        Raises:
            ValueError: the path is a file, or files are inputs or foreign, or cannot be written.
        """
        folder = f"{self._option} {self.path}"
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{folder} is a file; give a directory's name")
        present = [name for name in names if (self.path / name).is_file()]
        read = _identities(inputs) if present else set()
        for name in present:
            if _identities([self.path / name]) & read:
                raise ValueError(f"{folder}: {name} is a file that this run reads; give another folder")
        foreign = [] if overwrite else self._foreign(present)
        if foreign:
            raise ValueError(
                f"{folder} holds {len(foreign)} files of the results' names that graysam has not written, or that have "
                f"changed since, first {foreign[0]}; give another folder, or --overwrite"
            )
        for name in names[:1]:
            _check_writable(self.path / name, self._option)

    def record(self, name: str, source: Path) -> None:
        """List a file that was just written, and the input that it was made from."""
        self._written.add(name)
        if not (self.path / name).is_file():
            return
        with suppress(OSError):
            entry = {"name": name, "sha256": sha256_of(self.path / name), "input": source.name}
            line = json.dumps({**entry, "input_sha256": sha256_of(source)}).encode() + b"\n"
            with (self.path / MANIFEST).open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read() == b"\n" else b"\n" + line  # after a line that a crash has torn
                file.write(line)

    def remove_stale(self, name: str) -> str:
        """Remove what an earlier run wrote for a case that failed now; return a text for the user, or nothing."""
        path = self.path / name
        if name in self._written or not path.is_file():
            return ""
        if self._foreign([name]):
            return f"; {path} is not of this run"
        try:
            path.unlink()
        except OSError as error:
            return f"; {path} is of an earlier run and cannot be removed ({error.strerror})"
        return f"; {path} of an earlier run is removed"

    def _foreign(self, names: Iterable[str]) -> list[str]:
        listed: dict[str, str] = {}
        with suppress(FileNotFoundError):
            for line in (self.path / MANIFEST).read_bytes().splitlines():
                with suppress(ValueError, KeyError, TypeError):  # a line that a crash has torn
                    entry = json.loads(line)
                    listed[entry["name"]] = entry["sha256"]
        files = {name: self.path / name for name in names}
        return [name for name, file in files.items() if file.stat().st_size and listed.get(name) != sha256_of(file)]


def _identities(files: Iterable[Path]) -> set[tuple[int, int]]:
    """Return what is the same for a file by all of its names, for those that exist."""
    return {(found.st_dev, found.st_ino) for found in (file.stat() for file in files if file.exists())}


def _holds(path: Path, mark: str) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return mark.encode() in file.read(4096)
    return False


def _check_writable(path: Path, option: str) -> None:
    """Raise ValueError where a file or folder can neither be made, nor replaced, nor written."""
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not (os.access(place, os.W_OK) or (place == path and os.access(path.absolute().parent, os.W_OK))):
        raise ValueError(f"{option} {path} cannot be written: no permission for {place}; give another name")
