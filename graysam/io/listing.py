"""The one rule by which commands list a folder: every entry is a file to be used, or counted with the reason.

The manifest that graysam itself keeps in a folder of results is neither.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from graysam.system.outputs import MANIFEST

CASE_SUFFIXES = (".npz",)


class Listing(NamedTuple):
    """Files of a folder that are to be used, sorted, and for what is not how many there are, by the reason."""

    files: list[Path]
    not_read: Mapping[str, int]

    def describe(self, folder: Path) -> list[str]:
        """Return one line about what is not read, with its end; none where all is."""
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(self.not_read.items()))
        return [f"not read in {folder}: {counts}\n"] if counts else []


def list_folder(folder: Path, suffixes: tuple[str, ...] = CASE_SUFFIXES, *, recursive: bool = False) -> Listing:
    """List the files of a folder that end in one of the suffixes, in small or capital letters.

    A link without a target, or a file that may not be read, is listed as well, so that reading it fails by its name.

    Args:
        folder: which must be one.
        suffixes: in small letters, with the dot.
        recursive: whether its folders are searched, too, linked ones included; a folder is searched once, hidden ones
            never.
    """
    files: list[Path] = []
    not_read: Counter[str] = Counter()
    searched: set[Path] = set()

    def search(place: Path) -> Iterator[tuple[Path, str]]:
        """Yield what lies in a folder, and the reason why it is not read, or nothing."""
        searched.add(place.resolve())
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            yield place, "unreadable folders"
            return
        for entry in entries:
            path = place / entry.name
            if entry.name == MANIFEST:
                continue
            if entry.name.startswith("."):
                yield path, "hidden"
            elif os.path.isdir(path):
                if not recursive:
                    yield path, "folders"
                elif path.resolve() in searched:
                    yield path, "folders that were searched before"
                else:
                    yield from search(path)
            elif path.suffix.lower() not in suffixes:
                yield path, f"of other kinds than {', '.join(suffixes)}"
            else:
                yield path, "special files" if os.path.exists(path) and not os.path.isfile(path) else ""

    for path, reason in search(folder):
        if reason:
            not_read[reason] += 1
        else:
            files.append(path)
    return Listing(sorted(files), not_read)


def case_paths(folder: Path, option: str) -> list[Path]:
    """Return the case files of the folder that `option` names, sorted; ValueError as in `list_cases`."""
    return list_cases(folder, option).files


def list_cases(folder: Path, option: str) -> Listing:
    """List the folder of case files that `option` names.

    Raises:
        ValueError: there is none, or two differ in the suffix alone.
    """
    listing = list_folder(folder) if folder.is_dir() else Listing([], {})
    if not listing.files:
        what = "holds no .npz file" if folder.is_dir() else "is not a directory"
        raise ValueError(f"{option} {folder} {what}; required: a folder of case files (.npz)")
    by_name: dict[str, Path] = {}
    for path in listing.files:
        if (other := by_name.setdefault(path.stem, path)) != path:
            raise ValueError(f"{option} {folder}: {other.name} and {path.name} are the same case; rename one")
    return listing


def case_path(folder: Path, name: str) -> Path:
    """Return the case file of a name without a suffix, whose suffix may be in capitals; it need not exist."""
    path = folder / f"{name}.npz"
    if path.exists() or not folder.is_dir():
        return path
    return next((file for file in list_folder(folder).files if file.stem == name), path)
