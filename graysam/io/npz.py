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

MAX_BYTES = 8 * 1024**3  # of one array, the challenge's memory limit; more is refused before anything is allocated

_HEADER_BYTES = 16384  # NumPy refuses headers above 10,000 characters anyway
_KINDS = {"u": "unsigned", "i": "integer", "f": "float", "b": "bool"}


class CaseError(ValueError):
    """A case file that cannot be used, in one line: file, what was given, what is required, what to do."""


class Npz:
    """An open NPZ whose arrays are checked by their headers before they are read."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self._archive.namelist()

    def read(self, key: str, *, kinds: str, ranks: tuple[int, ...]) -> NDArray[Any]:
        """Read one array in the machine's byte order; ValueError before allocation if not as required."""
        if key not in self:
            names = sorted(name.removesuffix(".npy") for name in self._archive.namelist())[:8]
            raise ValueError(f"no array '{key}', but {names}; required: the challenge's imgs, boxes, gts, segs")
        member = self._archive.getinfo(f"{key}.npy")
        with self._archive.open(member) as stream:
            start = io.BytesIO(stream.read(_HEADER_BYTES))
        shape, dtype = _read_header(key, start)
        if dtype.hasobject:
            raise ValueError(f"{key} holds pickled Python objects, which are never loaded; required: a numeric array")
        subject = f"{key} {'has' if key == 'spacing' else 'have'}"
        if dtype.kind not in kinds or dtype.itemsize > 8:
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise ValueError(f"{subject} dtype {dtype}; required: {wanted}; convert it before saving")
        if len(shape) not in ranks:
            raise ValueError(f"{subject} shape {shape}; required: rank {' or '.join(map(str, ranks))}")
        size, payload = math.prod(shape) * dtype.itemsize, member.file_size - start.tell()
        if size != payload:
            raise ValueError(f"the header of {key} asks for {size} bytes, {payload} are there; save the file again")
        if size > MAX_BYTES:
            raise ValueError(f"{key} would need {size} bytes; required: at most {MAX_BYTES}; crop the case")
        with self._archive.open(member) as stream:
            array = npy_format.read_array(stream, allow_pickle=False)
            if stream.read(1):  # also makes zipfile compare the checksum
                raise ValueError(f"{key} has bytes after the array's end")
        return np.ascontiguousarray(array, dtype=dtype.newbyteorder("="))


def _read_header(key: str, start: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype from the first bytes of a member; leave `start` behind the header."""
    try:
        version = npy_format.read_magic(start)
        readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
        shape, _, dtype = readers[version](start)
        if any(length < 0 for length in shape):
            raise ValueError(f"negative length in shape {shape}")
    except Exception as error:  # a forged header reaches ast and tokenize, which raise arbitrary exceptions
        raise ValueError(f"{key} is no readable NPY array ({one_line(error)}); save the file again") from None
    return shape, dtype


@contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Open an NPZ; whatever is wrong with it while it is open becomes a CaseError of one line that names the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield Npz(archive)
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file") from None
    except MemoryError:
        raise CaseError(f"{path}: does not fit into memory; crop the case or use a larger machine") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, OverflowError) as error:
        reason = f"truncated, damaged or not an NPZ (zip) file ({one_line(error)})"
        raise CaseError(f"{path}: {reason}; copy or export it again") from None
    except ValueError as error:
        raise CaseError(f"{path}: {one_line(error)}") from None
