"""Open OpenVINO's core and compile graphs the one way graysam does.

Telemetry: `import openvino`, its converter and NNCF send events to a web service by the package openvino-telemetry,
consent assumed. All of them run without it, so it is hidden in a process in which graysam imports OpenVINO first.

Signals: each `openvino.Core` that opens the CPU gives the thread an alternate signal stack of its own and restores the
previous one when it is deleted. Two that are deleted in the order of their creation leave the stack of the first, which
is unmapped by then, and the next signal kills the process (OpenVINO 2026.4; shown in
tests/inference/test_openvino_core.py). A stack that is restored at once is left alone by both.

Cache: OpenVINO's own (CACHE_DIR) knows a graph by its file's name and time: with 2026.4, weights replaced beside the
same graph gave the old results, and so did a few altered bytes. Here a compiled graph is stored without its weights and
with a digest over graph, machine and content; one whose digest is wrong is compiled again.
"""

import ctypes
import hashlib
import itertools
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graysam.system.files import replacing

if TYPE_CHECKING:
    import openvino

CONVERTER = "openvino.tools.ovc"


def disable_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting; call it before OpenVINO is imported.

    Where another part of the program imported it before, that import has been reported, and nothing after it will be.
    """
    reporter: Any = sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not installed
    if reporter is not None:
        reporter.main.TelemetrySender.send = lambda *arguments: None  # all that is sent goes this way


def skip_converter() -> None:
    """Keep `import openvino` from importing its converter, which takes two thirds of that import's time.

    For a process of graysam's own alone: others may want to convert models.
    """
    sys.modules[CONVERTER] = None  # type: ignore[assignment]  # None: not installed


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


def thread_properties(threads: int | None) -> dict[str, Any]:
    """Return OpenVINO's properties for a number of CPU threads; None leaves number and cores to OpenVINO."""
    if threads is None:
        return {}
    # Each process would pin its threads to the same first cores, whatever other processes do there.
    return {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}


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


def compile_cached(
    core: "openvino.Core", xml_path: Path, properties: Mapping[str, Any], cache_dir: Path | None, key: str
) -> "openvino.CompiledModel":
    """Compile a graph for the CPU, or import what an earlier process compiled.

    A cache that is missing, unwritable or damaged costs the time of compiling and nothing more. Safe for processes at
    the same time: entries appear whole or not at all, and any of them is valid.

    Args:
        core: of OpenVINO.
        xml_path: the graph, its weights beside it as `.bin`.
        properties: of OpenVINO's CPU device, without any about caching.
        cache_dir: a folder, made where missing; None compiles and writes nothing.
        key: identifies graph and weights, e.g. their hashes; another key, OpenVINO, CPU or set of properties is another
            entry.

    Raises:
        RuntimeError: as OpenVINO does, for a graph that cannot be compiled.
    """
    if cache_dir is None:
        return core.compile_model(xml_path, "CPU", dict(properties))
    import openvino

    # Without weights an entry has 1-2 MB instead of 15-120 MB, and is imported faster.
    options = {**properties, "CACHE_MODE": "OPTIMIZE_SIZE"}
    facts = {
        "key": key,
        "graph": xml_path.stem,
        "openvino": openvino.__version__,
        "machine": platform.machine(),
        "cpu": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "features": _cpu_features(),
        "properties": {name: str(value) for name, value in properties.items()},
    }
    identity = json.dumps(facts, sort_keys=True).encode()
    entry = cache_dir / f"{xml_path.stem}-{hashlib.sha256(identity).hexdigest()[:32]}.blob"
    with suppress(OSError, RuntimeError, ValueError, TypeError):  # no entry, or one that OpenVINO itself refuses
        content = entry.read_bytes()
        if content[:32] == _digest(identity, content[32:]):
            weights = {"WEIGHTS_PATH": str(xml_path.with_suffix(".bin"))}
            return core.import_model(content[32:], "CPU", {**options, **weights})
    compiled = core.compile_model(xml_path, "CPU", options)
    with suppress(OSError, RuntimeError):
        blob = bytes(compiled.export_model().getbuffer())
        cache_dir.mkdir(parents=True, exist_ok=True)
        with replacing(entry) as temporary:
            temporary.write_bytes(_digest(identity, blob) + blob)
    return compiled


def _cpu_features() -> str:
    """Return what distinguishes CPUs that share a name: the constant lines of the first one, on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = itertools.takewhile(str.strip, file)  # reading hundreds of CPUs takes longer than all else here
            kept = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU")
            return "".join(line for line in first if line.startswith(kept))
    except OSError:
        return platform.processor()


def _digest(identity: bytes, blob: bytes) -> bytes:
    """Return the 32 bytes that an entry begins with."""
    return hashlib.sha256(hashlib.sha256(identity).digest() + blob).digest()
