"""Open OpenVINO's core the one way graysam does: nothing reported, signal handlers left working.

Telemetry: `import openvino`, its converter and NNCF send events to a web service by the package openvino-telemetry and
keep a client's id in the user's home folder; consent is assumed unless the user has run `opt_in_out --opt_out`. All of
them run without that package, so it is hidden in a process in which graysam imports OpenVINO first.

Signals: each `openvino.Core` that opens the CPU gives the thread an alternate signal stack of its own and restores the
previous one when it is deleted. Two that are deleted in the order of their creation leave the stack of the first, which
is unmapped by then, and the next signal kills the process (OpenVINO 2026.4; shown in
tests/inference/test_openvino_core.py). A stack that is restored at once is left alone by both.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino

CONVERTER = "openvino.tools.ovc"
_REPORTER = "openvino_telemetry"


def disable_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting; call it before OpenVINO is imported.

    Where another part of the program imported it before, that import has been reported, and nothing after it will be.
    """
    reporter: Any = sys.modules.setdefault(_REPORTER, None)  # type: ignore[arg-type]  # None: not installed
    if reporter is not None:
        reporter.main.TelemetrySender.send = lambda *arguments: None  # all that is sent goes this way


def skip_converter() -> None:
    """Keep `import openvino` from importing its converter, which takes two thirds of that import's time.

    For a process of graysam's own alone: others may want to convert models. `allow_converter` undoes it.
    """
    sys.modules[CONVERTER] = None  # type: ignore[assignment]  # None: not installed


def allow_converter() -> None:
    """Let the converter be imported after `skip_converter`; only before OpenVINO is imported."""
    sys.modules.pop(CONVERTER, None)


def open_core() -> "openvino.Core":
    """Import OpenVINO, its telemetry disabled, and return a core that has opened the CPU, the signal stack kept."""
    disable_telemetry()
    import openvino

    core = openvino.Core()
    with signal_stack_kept():
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return core


def has_bf16(core: "openvino.Core") -> bool:
    """Return whether this CPU has instructions for bfloat16; without them OpenVINO computes in float32."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Restore, at the end, the alternate signal stack that this thread had; on Linux alone."""
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
