"""The kinds of numbers a trained network can run in on a CPU, side by side for comparison.

A kind takes a float32 Sam and prepares a network of its own behind the volume engine's `encode` and `decode`. The
float32 weights stay what is stored and shipped: no kind changes the model it is given.
"""

import importlib
import importlib.util
import io
import logging
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graysam.exporting import engines
from graysam.exporting.method import Kind, Prepared, private_copy
from graysam.exporting.torch_backend import TorchBackend
from graysam.models.pretrained import Pretrained, open_pretrained
from graysam.models.sam import Sam


def _saved_bytes(model: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getbuffer().nbytes


def _prepared(network: Sam, quantized_layers: frozenset[str]) -> Prepared:
    return Prepared(TorchBackend(network, device="cpu", precision="fp32"), quantized_layers, _saved_bytes(network))


def _run_probe(quantize: Callable[[nn.Module], Any]) -> str | None:
    """Quantize and run one small layer; return what goes wrong."""
    layer = nn.Sequential(nn.Linear(16, 16)).eval().requires_grad_(False)
    try:
        with torch.inference_mode():
            quantize(layer)
            layer(torch.zeros(1, 4, 16))
    except Exception as error:  # whatever this version of another project raises, the kind cannot run here
        reason = " ".join(str(error).split())[:200]
        return f"{type(error).__name__}: {reason}"
    return None


# ------------------------------------------------------------------ float32
def _prepare_none(model: Sam) -> Prepared:
    return _prepared(private_copy(model), frozenset())


# ------------------------------------------------------------------ torch.ao, the paper's
@contextmanager
def _deprecated_on_purpose() -> Iterator[None]:
    """Silence torch.ao's announcement that it will go: it is the paper's method, and its going is probed for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        yield


def _quantize_dynamic(module: nn.Module) -> None:
    """Replace every nn.Linear by torch.ao's dynamic int8 one, in place; nothing else has a dynamic form."""
    quantization: Any = importlib.import_module("torch.ao.quantization")
    with _deprecated_on_purpose():
        quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8, inplace=True)


def _no_dynamic_qint8() -> str | None:
    try:
        found = hasattr(importlib.import_module("torch.ao.quantization"), "quantize_dynamic")
    except ImportError:
        found = False
    if not found:
        return f"torch {torch.__version__} no longer has torch.ao.quantization.quantize_dynamic"
    engines = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if torch.backends.quantized.engine not in engines:
        return f"torch {torch.__version__} has no engine for quantized layers on {platform.machine()}"
    return _run_probe(_quantize_dynamic)


def _prepare_dynamic_qint8(model: Sam) -> Prepared:
    network = private_copy(model)
    _quantize_dynamic(network)
    dynamic: Any = importlib.import_module("torch.ao.nn.quantized.dynamic")
    replaced = frozenset(name for name, module in network.named_modules() if isinstance(module, dynamic.Linear))
    with _deprecated_on_purpose():
        return _prepared(network, replaced)


# ------------------------------------------------------------------ torchao, its successor
def _torchao(name: str) -> Any:
    """Import a module of torchao without the notes to its own developers."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module(name)
    finally:
        logger.setLevel(level)


def _quantize_torchao(module: nn.Module) -> None:
    """Give every nn.Linear an int8 weight per row and int8 activations per token, in place."""
    quantization = _torchao("torchao.quantization")
    config = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)  # nothing is compiled
    quantization.quantize_(module, config)


def _no_torchao_int8() -> str | None:
    if importlib.util.find_spec("torchao") is None:
        return "torchao is not installed: pip install '.[quantize]'"
    return _run_probe(_quantize_torchao)


def _prepare_torchao_int8(model: Sam) -> Prepared:
    network = private_copy(model)
    _quantize_torchao(network)
    tensor = _torchao("torchao.utils").TorchAOBaseTensor
    layers = ((name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear))
    return _prepared(network, frozenset(name for name, module in layers if isinstance(module.weight, tensor)))


# ------------------------------------------------------------------ registry
def _of_torch(name: str, why_unavailable: Callable[[], str | None], prepare: Callable[[Sam], Prepared]) -> Kind:
    """Return a kind that stores nothing: a Sam is prepared in it within a second."""
    return Kind(
        name,
        why_unavailable,
        lambda model, place: prepare(model),
        lambda model, folder, threads: prepare(model).backend,
    )


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _of_torch("none", lambda: None, _prepare_none),
        _of_torch("dynamic_qint8", _no_dynamic_qint8, _prepare_dynamic_qint8),
        _of_torch("torchao_int8", _no_torchao_int8, _prepare_torchao_int8),
        Kind("openvino_bf16", engines.no_openvino_bf16, engines.prepare_openvino_bf16, engines.reopen_openvino),
        Kind("openvino_int8", engines.no_openvino_int8, engines.prepare_openvino_int8, engines.reopen_openvino),
        Kind(
            "onnxruntime_dynamic",
            engines.no_onnxruntime,
            engines.prepare_onnxruntime_dynamic,
            engines.reopen_onnxruntime,
        ),
    )
}


def check_methods(names: Sequence[str]) -> None:
    """Raise a ValueError that names unknown and repeated kinds, and the valid ones."""
    unknown = [str(name) for name in names if name not in KINDS]
    repeated = sorted({str(name) for name in names if list(names).count(name) > 1})
    problems = [f"unknown {', '.join(unknown)}"] if unknown else []
    problems += [f"repeated {', '.join(repeated)}"] if repeated else []
    if problems:
        raise ValueError(f"quantize.kinds: {'; '.join(problems)}; valid are {', '.join(KINDS)}")


def restore(checkpoint: Path) -> Pretrained:
    """Build the model that a checkpoint of graysam describes, with its weights.

    Raises:
        ValueError: the file cannot be read, does not describe its model, or holds other weights than it says.
    """
    return open_pretrained(str(checkpoint))
