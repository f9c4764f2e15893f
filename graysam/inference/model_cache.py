"""Keep compiled networks on disk, so that the next process starts faster.

OpenVINO's own cache folder (CACHE_DIR) knows a network by its file's name and time and a CPU by its name alone: with
2026.4, weights replaced beside the same graph gave the old results, and so did a few altered bytes. Here a compiled
network is stored without its weights, which stay beside the graph, and with a digest over the network, the
machine and the file's content. Only a file whose digest is right is imported; otherwise the network is compiled.
"""

import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graysam.system.files import replacing

if TYPE_CHECKING:
    import openvino

_LOG = logging.getLogger(__name__)
_DIGEST_BYTES = 32
# Weights stay out of what is exported: a blob is 1-2 MB instead of 15-120 MB, and imports faster.
_WEIGHTLESS = {"CACHE_MODE": "OPTIMIZE_SIZE"}


def compile_cached(
    core: "openvino.Core",
    xml_path: Path,
    properties: Mapping[str, Any],
    cache_dir: Path | None,
    key: str,
) -> "openvino.CompiledModel":
    """Compile an OpenVINO graph for the CPU, or import what an earlier process compiled.

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
    options = {**properties, **_WEIGHTLESS}
    identity = _identity(core, properties, key, xml_path.stem)
    entry = cache_dir / f"{xml_path.stem}-{hashlib.sha256(identity).hexdigest()[:32]}.blob"
    blob = _read_entry(entry, identity)
    if blob is not None:
        try:
            return core.import_model(blob, "CPU", {**options, "WEIGHTS_PATH": str(xml_path.with_suffix(".bin"))})
        except (RuntimeError, ValueError, TypeError) as error:  # refused by OpenVINO itself
            _LOG.info("%s cannot be imported and is compiled again: %s", entry, error)
    compiled = core.compile_model(xml_path, "CPU", options)
    try:
        _write_entry(entry, identity, bytes(compiled.export_model().getbuffer()))
    except (OSError, RuntimeError) as error:
        _LOG.info("the compiled %s is not kept: %s", xml_path.name, error)
    return compiled


def _identity(core: "openvino.Core", properties: Mapping[str, Any], key: str, graph: str) -> bytes:
    """Return all that a compiled network depends on."""
    import openvino

    facts = {
        "key": key,
        "graph": graph,
        "openvino": openvino.__version__,
        "machine": platform.machine(),
        "cpu": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "capabilities": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        "features": _cpu_features(),
        "properties": {name: str(value) for name, value in properties.items()},
    }
    return json.dumps(facts, sort_keys=True).encode()


def _cpu_features() -> str:
    """Return what distinguishes CPUs that share a name: the constant lines of the first one, on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = []
            for line in file:
                if not line.strip():  # the end of the first CPU; reading hundreds takes longer than all else here
                    break
                if line.startswith(("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU")):
                    lines.append(line)
            return "".join(lines)
    except OSError:
        return platform.processor()


def _read_entry(entry: Path, identity: bytes) -> bytes | None:
    """Return the exported network of an entry; None unless this identity wrote it in full."""
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    digest, blob = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if digest == _digest(identity, blob):
        return blob
    _LOG.info("%s is damaged and is replaced", entry)
    return None


def _write_entry(entry: Path, identity: bytes, blob: bytes) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    with replacing(entry) as temporary:
        temporary.write_bytes(_digest(identity, blob) + blob)


def _digest(identity: bytes, blob: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(identity).digest() + blob).digest()
