"""OpenVINO's core, opened the one way graysam opens it: nothing reported, signals left alone."""

from typing import TYPE_CHECKING

from graysam.inference import telemetry
from graysam.inference.signal_stack import signal_stack_kept

if TYPE_CHECKING:
    import openvino


def open_core() -> "openvino.Core":
    """Return a core that has met the CPU; imports OpenVINO, with its reports switched off first.

    The first meeting replaces the thread's signal stack (`graysam.inference.signal_stack`), so it takes place here.
    """
    telemetry.switch_off()
    import openvino

    core = openvino.Core()
    with signal_stack_kept():
        core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return core


def has_bf16(core: "openvino.Core") -> bool:
    """Say whether this CPU has instructions for bfloat16; without them OpenVINO computes in float32."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
