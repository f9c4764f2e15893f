"""Reading NPZ files that may be damaged or hostile: every array's header is checked before it is read."""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from graysam.system.terminal import one_line

MAX_BYTES = 8 * 1024**3  # the challenge's memory limit; more is refused before anything is allocated

_HEADER_BYTES = 16384  # NumPy refuses headers above 10,000 characters anyway
_READ_ERRORS = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    ValueError,
)


class CaseError(ValueError):
    """A case file that cannot be used, in one line: file, what was given, what is required, what to do."""


class Npz:
    """An open NPZ whose arrays are checked by their headers before they are read."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, max_bytes: int) -> None:
        self._path = path
        self._archive = archive
        self._bytes_left = max_bytes
        self._max_bytes = max_bytes

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self._archive.namelist()

    def read(self, key: str, *, kinds: str, ranks: tuple[int, ...]) -> NDArray[Any]:
        """Read one array in the machine's byte order; CaseError before allocation if not as required."""
        with _damage_reported(self._path):
            return self._read(key, kinds, ranks)

    def _read(self, key: str, kinds: str, ranks: tuple[int, ...]) -> NDArray[Any]:
        if key not in self:
            names = sorted(name.removesuffix(".npy") for name in self._archive.namelist())[:8]
            raise CaseError(
                f"{self._path}: no array '{key}' (has: {', '.join(names) or 'nothing'}); "
                "required: the challenge's keys, imgs with boxes, gts or segs; see README"
            )
        member = self._archive.getinfo(f"{key}.npy")
        with self._archive.open(member) as stream:
            start = io.BytesIO(stream.read(_HEADER_BYTES))
        shape, dtype = self._header(key, start)
        if dtype.hasobject:
            raise CaseError(
                f"{self._path}: {key} holds pickled Python objects, which are never loaded; "
                "required: a plain numeric array; save it with its numeric dtype"
            )
        if dtype.kind not in kinds or dtype.itemsize > 8:
            wanted = {"u": "unsigned", "i": "integer", "f": "float", "b": "bool"}
            raise CaseError(
                f"{self._path}: {key} have dtype {dtype}; required: "
                f"{' or '.join(wanted[k] for k in kinds)}; convert it before saving"
            )
        if len(shape) not in ranks:
            raise CaseError(f"{self._path}: {key} have shape {shape}; required: rank {' or '.join(map(str, ranks))}")
        size = math.prod(shape) * dtype.itemsize
        payload = member.file_size - start.tell()
        if size != payload:
            raise CaseError(
                f"{self._path}: the header of {key} asks for {size} bytes, shape {shape}, but {payload} are "
                "there; required: as many as the header says; the file is damaged or forged, save it again"
            )
        if size > self._bytes_left:
            raise CaseError(
                f"{self._path}: {key} of shape {shape} would need {size} bytes; "
                f"required: at most {self._max_bytes} bytes in all; crop the case or raise the limit"
            )
        self._bytes_left -= size
        with self._archive.open(member) as stream:
            array = npy_format.read_array(stream, allow_pickle=False)
            if stream.read(1):  # also makes zipfile compare the checksum
                raise ValueError("bytes after the array's end")
        return np.ascontiguousarray(array, dtype=dtype.newbyteorder("="))

    def _header(self, key: str, start: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype from the first bytes of a member; leaves `start` behind the header."""
        try:
            version = npy_format.read_magic(start)
            if version == (1, 0):
                shape, _, dtype = npy_format.read_array_header_1_0(start)
            elif version == (2, 0):
                shape, _, dtype = npy_format.read_array_header_2_0(start)
            else:
                raise ValueError(f"NPY version {version}")
        except Exception as error:  # a forged header reaches ast and tokenize, which raise what they like
            raise CaseError(
                f"{self._path}: {key} is no readable NPY array ({one_line(error)}); "
                "save the file again with np.savez_compressed"
            ) from None
        if any(n < 0 for n in shape):
            raise CaseError(f"{self._path}: the header of {key} has the shape {shape}; required: no negative length")
        return shape, dtype


@contextmanager
def open_npz(path: Path, max_bytes: int) -> Iterator[Npz]:
    """Open an NPZ; a ValueError while it is open becomes a CaseError of one line that names the file."""
    try:
        with _damage_reported(path):
            if path.stat().st_size == 0:
                raise CaseError(
                    f"{path}: the file is empty; required: an NPZ of the challenge; copy or export it again"
                )
            archive = zipfile.ZipFile(path)
        with archive:
            yield Npz(path, archive, max_bytes)
    except CaseError:
        raise
    except ValueError as error:
        raise CaseError(f"{path}: {one_line(error)}") from None


@contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file lets the readers raise into a CaseError."""
    try:
        yield
    except CaseError:
        raise
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file") from None
    except MemoryError:
        raise CaseError(f"{path}: does not fit into memory; crop the case or use a larger machine") from None
    except _READ_ERRORS as error:
        raise CaseError(
            f"{path}: truncated, damaged or not an NPZ (zip) file ({one_line(error)}); "
            "required: an NPZ of the challenge; copy or export it again"
        ) from None
