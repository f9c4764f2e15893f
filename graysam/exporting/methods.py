"""Quantization methods: the ways to run a trained network on a CPU, side by side for comparison.

A method takes a float32 Sam and prepares a network of its own behind the volume engine's `encode` and `decode`. The
float32 weights are what is stored and shipped: no method changes the model that it is given. Methods of OpenVINO and
ONNX Runtime take minutes and write an exported model, which other processes open; the engines are imported when used.
"""

import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graysam.exporting.torch_backend import TorchBackend
from graysam.imaging.channels import Scheme
from graysam.imaging.presets import scheme_to_dict
from graysam.inference.backend import Backend
from graysam.inference.exported_model import ExportedModel, is_exported, read_exported, write_exported
from graysam.inference.openvino_core import has_bf16, open_core
from graysam.inference.predictor import BackendName, Predictor
from graysam.models.sam import Sam, inference_copy

MethodName = Literal["none", "dynamic_qint8", "torchao_int8", "openvino_bf16", "openvino_int8", "onnxruntime_dynamic"]


class PreparedModel(NamedTuple):
    """A network ready to run, the layers of the given Sam that compute in lower precision, its weights' file size."""

    backend: Backend
    quantized_layers: frozenset[str]
    saved_bytes: int


class Target(NamedTuple):
    """What a method may need to prepare a model.

    Attributes:
        folder: of the exported model, if the method writes one; it must stay as long as the prepared model is used.
        size: side S of the model's square input in pixels.
        scheme: the channels the model was trained on.
        calibration_images: reads prepared training images, float32 (3,S,S), which takes time.
    """

    folder: Path
    size: int
    scheme: Scheme
    calibration_images: Callable[[], Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class QuantizationMethod:
    """A way to run a Sam.

    Attributes:
        name: the key in METHODS.
        why_unavailable: returns in one line why the method cannot run here, None where it can.
        prepare: takes a Sam on the CPU in float32, which stays as it is, and a target; torch's methods need none.
    """

    name: str
    why_unavailable: Callable[[], str | None]
    prepare: Callable[[Sam, Target | None], PreparedModel]


def open_prepared(name: str, model: Sam, folder: Path, threads: int) -> Backend:
    """Open in another process what a method prepared: the exported model in `folder`, else the Sam once more."""
    if is_exported(folder):
        return open_backend(read_exported(folder), threads)
    return METHODS[name].prepare(model, None).backend


def open_backend(exported: ExportedModel, threads: int | None) -> Backend:
    """Open an exported model with the engine that it is for, without a cache of compiled graphs."""
    backend: BackendName = "onnxruntime" if exported.format == "onnx" else "openvino"
    return Predictor(exported.path, backend=backend, threads=threads, cache=False).backend


# ------------------------------------------------------------------ torch
def _torch_method(name: str, quantize: Callable[[nn.Module], frozenset[str]], *packages: str) -> QuantizationMethod:
    """Make a method of a function that quantizes a module in place and returns the names of the quantized layers."""

    def why_unavailable() -> str | None:
        layer = nn.Sequential(nn.Linear(16, 16)).eval().requires_grad_(False)
        try:
            with torch.inference_mode():
                quantize(layer)
                layer(torch.zeros(1, 4, 16))
        except Exception as error:  # whatever this version of torch or torchao raises, the method cannot run here
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return None

    def prepare(model: Sam, target: Target | None) -> PreparedModel:
        network, buffer = inference_copy(model), io.BytesIO()
        quantized = quantize(network)
        with _deprecated_on_purpose():
            torch.save(network.state_dict(), buffer)
        backend = TorchBackend(network, device="cpu", precision="fp32")
        return PreparedModel(backend, quantized, buffer.getbuffer().nbytes)

    return QuantizationMethod(name, lambda: _missing(*packages) or why_unavailable(), prepare)


@contextmanager
def _deprecated_on_purpose() -> Iterator[None]:
    """Silence torch.ao's deprecation: it is the paper's method, and a torch without it is noticed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        yield


def _quantize_dynamic(module: nn.Module) -> frozenset[str]:
    """Replace every nn.Linear by torch.ao's dynamic int8 one; no other layer has a dynamic form."""
    quantization: Any = importlib.import_module("torch.ao.quantization")
    dynamic: Any = importlib.import_module("torch.ao.nn.quantized.dynamic")
    with _deprecated_on_purpose():
        quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8, inplace=True)
    return frozenset(name for name, layer in module.named_modules() if isinstance(layer, dynamic.Linear))


def _quantize_torchao(module: nn.Module) -> frozenset[str]:
    """Give every nn.Linear an int8 weight per row and int8 activations per token."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    logger.setLevel(logging.ERROR)  # importing torchao logs notes to its own developers
    try:
        quantization, utils = (importlib.import_module(f"torchao.{name}") for name in ("quantization", "utils"))
    finally:
        logger.setLevel(level)
    # Nothing is compiled, so inductor's settings stay as they are.
    config = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    quantization.quantize_(module, config)
    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear))
    return frozenset(name for name, layer in layers if isinstance(layer.weight, utils.TorchAOBaseTensor))


# ------------------------------------------------------------------ OpenVINO and ONNX Runtime
def _prepare_exported(variant: str, model: Sam, target: Target | None) -> PreparedModel:
    """Write and open an exported model with graphs of a variant of `write_graphs`."""
    from graysam.exporting.pipeline import PRECISIONS, write_graphs

    assert target is not None  # where the exported model is written
    images = target.calibration_images() if variant == "int8" else ()
    kind = variant.removesuffix("_dynamic")
    description = {
        "name": target.folder.name,
        "kind": kind,
        "precision": PRECISIONS[kind],
        "size": target.size,
        "channels": scheme_to_dict(target.scheme),
    }
    layers: list[frozenset[str]] = []

    def write(folder: Path) -> None:
        layers.append(write_graphs(model, target.size, folder, variant=variant, images=images))

    exported = write_exported(target.folder, description=description, write_graphs=write)
    saved_bytes = sum(facts["bytes"] for facts in exported.description["files"].values())
    return PreparedModel(open_backend(exported, None), layers[0], saved_bytes)


def _missing(*packages: str) -> str | None:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    verb = "is" if len(absent) == 1 else "are"
    return f"{', '.join(absent)} {verb} not installed: pip install '.[quantize]'" if absent else None


def _no_bf16() -> str | None:
    if (reason := _missing("openvino")) is None and not has_bf16(open_core()):
        return "this CPU has no instructions for bfloat16; OpenVINO would compute in float32"
    return reason


# ------------------------------------------------------------------ registry
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METHODS: dict[str, QuantizationMethod] = {
    method.name: method
    for method in (
        _torch_method("none", lambda module: frozenset()),
        _torch_method("dynamic_qint8", _quantize_dynamic),
        _torch_method("torchao_int8", _quantize_torchao, "torchao"),
        QuantizationMethod("openvino_bf16", _no_bf16, partial(_prepare_exported, "bf16")),
        QuantizationMethod("openvino_int8", partial(_missing, "openvino", "nncf"), partial(_prepare_exported, "int8")),
        QuantizationMethod(
            "onnxruntime_dynamic", partial(_missing, *_ONNX_PACKAGES), partial(_prepare_exported, "onnx_dynamic")
        ),
    )
}


def check_methods(names: Sequence[str]) -> None:
    """Raise a ValueError that names unknown and repeated methods, and the valid ones."""
    unknown = [str(name) for name in names if name not in METHODS]
    repeated = sorted({str(name) for name in names if list(names).count(name) > 1})
    problems = [f"unknown {', '.join(unknown)}"] if unknown else []
    problems += [f"repeated {', '.join(repeated)}"] if repeated else []
    if problems:
        raise ValueError(f"quantize.methods: {'; '.join(problems)}; valid are {', '.join(METHODS)}")
