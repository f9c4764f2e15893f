"""The same network is traced for OpenVINO or ONNX once: that takes seconds, and many tests convert the same one."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_graphs: dict[str, Any] = {}
_files: dict[str, dict[str, bytes]] = {}


def remembering(trace: Callable[..., Any]) -> Callable[..., Any]:
    """Return conversion's `_trace` with a memory; whoever asks gets a clone, which may be altered."""

    def traced(module: Any, inputs: Mapping[str, Any], outputs: Sequence[str], free: str | None = None) -> Any:
        examples = [(name, value.shape, value.dtype) for name, value in inputs.items()]
        key = _digest(module, examples, list(outputs), free)
        if key not in _graphs:
            _graphs[key] = trace(module, inputs, outputs, free)
        return _graphs[key].clone()

    return traced


def remembering_files(export: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
    """Return `export_onnx` with a memory: the same network's files are written again, not made again."""

    def exported(model: Any, folder: Path) -> None:
        key = _digest(model)
        if key not in _files:
            before = set(folder.iterdir())
            export(model, folder)
            _files[key] = {path.name: path.read_bytes() for path in set(folder.iterdir()) - before}
        for name, content in _files[key].items():
            (folder / name).write_bytes(content)

    return exported


def _digest(module: Any, *more: Any) -> str:
    digest = hashlib.sha256(repr((module, *more)).encode())
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()
