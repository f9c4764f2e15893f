"""What a file is that holds no weights, in words that its user can act on."""

import re
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from graysam.system.terminal import one_line

_NUMBERS = "?bhilqBHILQefd"  # codes of NumPy's plain numbers
# What a training script's numbers are pickled with, beside torch's own: values alone, nothing that runs code.
NUMPY_SCALARS: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *{type(np.dtype(code)) for code in _NUMBERS},
]

# By how a file starts: what it is, and the remedy.
KNOWN_STARTS: dict[bytes, str] = {
    rb"\Z": "is empty; copy or download it again",
    rb"version https://git-lfs.*\nsize (\d+)": "is a pointer of Git LFS to {} bytes; run git lfs pull",
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b": "is a web page (HTML); "
    "download the file itself",
    rb"\x1f\x8b|.{257}ustar": "is a compressed file or a tar archive; unpack it and give the weight file in it",
}


def describe_unreadable(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that could not be read as weights, to follow its name in a message."""
    start = b"-"
    with suppress(OSError), path.open("rb") as file:
        start = file.read(1024)
    for pattern, words in KNOWN_STARTS.items():
        if match := re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return words.format(*(group.decode() for group in match.groups()))
    message = one_line(error)
    if found := re.search(r"GLOBAL ([\w.]+)", message):
        return (
            f"holds an object of {found[1]}, which is not read because it may run code; "
            "required: tensors and plain values; store the state dict alone: torch.save(model.state_dict(), FILE)"
        )
    if start.startswith(b"PK") and (problem := _problem_of_zip(path)):
        return problem
    if path.suffix != ".safetensors" and type(error) is not ValueError:  # torch gives unsafe advice
        message = f"{path.stat().st_size} bytes, damaged or of another format"
    return f"cannot be read as tensors ({message[:200]}); copy or download it again"


def _problem_of_zip(path: Path) -> str | None:
    """Return what is wrong with a ZIP archive, torch's own format; None for one that is intact."""
    try:
        with zipfile.ZipFile(path) as archive:
            names, damaged = archive.namelist(), archive.testzip()
    except (OSError, zipfile.BadZipFile):
        return f"is truncated or damaged, at {path.stat().st_size} bytes; copy or download it again"
    if damaged:
        return f"is damaged: the checksum of {damaged} is wrong; copy or download it again"
    if any(name.endswith("/constants.pkl") for name in names):
        return "is a TorchScript program; required: its state dict, stored with torch.save"
    if not any(name.endswith("/data.pkl") for name in names):
        return f"is a ZIP archive of {', '.join(names[:3])}; unpack it and give the weight file in it"
    return None
