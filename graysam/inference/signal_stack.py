"""The stack that signal handlers run on, which OpenVINO's CPU plugin replaces and may leave pointing nowhere.

Each `openvino.Core` that meets the CPU gives the thread an alternate signal stack of its own and puts the one before
back when it goes. Two that go in the order they came leave the stack of the first, which is unmapped by then, and the
next signal - Ctrl-C, SIGTERM, a worker's end - kills the process (OpenVINO 2026.4; three lines of Python show it, in
tests/inference/test_signal_stack.py). A stack put back at once is left alone by both.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give this thread, at the end, the alternate signal stack it had; elsewhere than on Linux nothing is done."""
    if sys.platform != "linux":
        yield
        return
    exchange = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    known = exchange(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            exchange(ctypes.byref(before), None)
