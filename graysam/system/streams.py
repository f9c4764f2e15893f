"""Standard streams that never decide whether a command works: closed, cut off, full, or unable to show a letter."""

import io
import os
import sys
from contextlib import suppress
from typing import Any


class _Lasting(io.FileIO):
    """A standard stream's file; once nobody can read what is written, that and all that follows is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            _open_null(self.fileno())
            return super().write(data)


def secure_streams() -> None:
    """Prepare this process's standard streams, for its children too; streams that others have put there stay.

    A closed stream becomes the null device, so that no file that is opened later takes its number. Output that meets an
    error is dropped from there on, and letters that a stream cannot encode become escapes such as \\xe9.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number)
        stream: Any = getattr(sys, name)
        if stream is None:
            null = open(os.devnull, "w" if number else "r", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            setattr(sys, name, null)
        elif number and stream is getattr(sys, f"__{name}__"):
            with suppress(OSError):
                stream.flush()
            stream.reconfigure(errors="backslashreplace")
            unbuffered = isinstance(stream.buffer, io.RawIOBase)
            if type(stream.buffer if unbuffered else stream.buffer.raw) is not io.FileIO:  # a console of Windows
                continue
            file = _Lasting(number, "wb", closefd=False)
            how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            lasting = io.TextIOWrapper(
                file if unbuffered else io.BufferedWriter(file),
                encoding=stream.encoding,
                errors=stream.errors,
                **how,
            )
            setattr(sys, name, lasting)


def _open_null(number: int) -> None:
    """Let a file descriptor be the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, number)
        os.close(null)
