"""Write files atomically, and hash them."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; the file written there is renamed to `path` when the block succeeds.

    When it fails, `path` stays as it was and the temporary file is removed. Raises OSError as the file system does.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # not longer than any name may be
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, *, replace_existing: bool = True) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that is renamed to `path` when the block succeeds.

    When it fails, `path` stays as it was and the temporary folder is removed.

    Raises:
        FileExistsError: `path` exists, is not empty and is not to be replaced, or was made meanwhile.
        OSError: as the file system does.
    """
    path = path.resolve()
    mark = uuid.uuid4().hex[:12]
    temporary, old = (path.with_name(f".{path.name}.{mark}.{what}") for what in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if replace_existing:
            with suppress(FileNotFoundError):
                path.rename(old)
        else:
            with suppress(OSError):
                path.rmdir()  # an empty one, which Windows would not replace
        try:
            temporary.rename(path)
        except OSError:
            if old.exists() and not path.exists():
                old.rename(path)
            elif path.exists():
                raise FileExistsError(f"{path} was made by another process meanwhile") from None
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


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
