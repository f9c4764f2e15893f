"""Quantization methods: the ways to run a trained network on a CPU, side by side for comparison.

A method takes a float32 Sam and prepares a network of its own behind the volume engine's `encode` and `decode`. The
float32 weights are what is stored and shipped: no method changes the model that it is given. Methods of OpenVINO and
ONNX Runtime take minutes and write an exported model, which other processes open.
"""

import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graysam.exporting import conversion
from graysam.exporting.compression import compress_exported
from graysam.exporting.graphs import graph_layers
from graysam.exporting.torch_backend import TorchBackend
from graysam.imaging.channels import Scheme, scheme_to_dict
from graysam.inference.backend import Backend
from graysam.inference.exported_model import ExportedModel, is_exported, read_exported, write_exported
from graysam.inference.openvino_core import has_bf16, open_core
from graysam.inference.predictor import BackendName, Predictor
from graysam.models.sam import Sam, inference_copy
from graysam.system.terminal import one_line

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
        scheme: the channels the model was trained on.
        calibration_images: reads prepared training images, float32 (3,S,S), which takes time.
    """

    folder: Path
    scheme: Scheme
    calibration_images: Callable[[], Sequence[NDArray[np.float32]]]


class QuantizationMethod(NamedTuple):
    """A way to run a Sam.

    Attributes:
        why_unavailable: returns in one line why the method cannot run here, None where it can.
        prepare: takes a Sam on the CPU in float32, which stays as it is, and a target; torch's methods need none.
    """

    why_unavailable: Callable[[], str | None]
    prepare: Callable[[Sam, Target | None], PreparedModel]


def open_prepared(name: str, model: Sam, folder: Path, threads: int) -> Backend:
    """Open in another process what a method prepared: the exported model in `folder`, else the Sam once more."""
    if is_exported(folder):
        return open_backend(read_exported(folder), threads)
    return METHODS[name].prepare(model, None).backend


# ------------------------------------------------------------------ OpenVINO and ONNX Runtime
def open_backend(exported: ExportedModel, threads: int | None) -> Backend:
    """Open an exported model with the engine that it is for, without a cache of compiled graphs."""
    backend: BackendName = "onnxruntime" if exported.format == "onnx" else "openvino"
    return Predictor(exported.path, backend=backend, threads=threads, cache=False).backend


def write_model(
    model: Sam,
    folder: Path,
    description: Mapping[str, Any],
    *,
    format: str,
    precision: str,
    images: Sequence[NDArray[np.float32]] = (),
) -> tuple[ExportedModel, frozenset[str]]:
    """Convert a model and write it as an exported one, for `export` and for the quantization methods alike.

    Args:
        model: float32, left as it is.
        folder: of the exported model.
        description: what `bundle.json` says beside the precision, the size and the files.
        format, precision: `openvino` in `fp32`, `bf16` or `int8`; `onnx` in `fp32` or, computed dynamically, in `int8`.
        images: prepared images, float32 (3,S,S), that OpenVINO's int8 is calibrated on.

    Returns:
        The exported model, and the names of the layers in lower precision; for int8 those in int8 alone.
    """
    layers: frozenset[str] = frozenset()

    def write_graphs(target: Path) -> None:
        nonlocal layers
        if format == "onnx" and precision == "int8":
            layers = conversion.export_dynamic_onnx(model, target)
        elif format == "onnx":
            conversion.export_onnx(model, target)
        else:
            half_precision = precision != "fp32"
            graphs = conversion.convert(model, half_precision=half_precision)
            if precision == "bf16":
                layers = graph_layers(model)
            elif precision == "int8":
                from graysam.exporting.int8 import quantize_encoder, quantized_layers

                graphs["encoder"] = quantize_encoder(graphs["encoder"], images)
                layers = quantized_layers(graphs["encoder"], model)
            conversion.save_graphs(graphs, target, half_precision=half_precision)

    description = {
        **description,
        "kind": "onnx" if format == "onnx" else precision,
        "precision": "f32" if format == "onnx" or precision == "fp32" else "bf16",  # of what is not in int8
        "weights": "float32" if format == "onnx" or precision == "fp32" else "float16",  # likewise
        "size": model.prompt_encoder.input_size,
    }
    return write_exported(folder, description=description, write_graphs=write_graphs), layers


def _prepare_exported(format: str, precision: str, model: Sam, target: Target | None) -> PreparedModel:
    """Write and open an exported model; see `write_model`."""
    assert target is not None  # where the exported model is written
    images = target.calibration_images() if (format, precision) == ("openvino", "int8") else ()
    description = {"name": target.folder.name, "channels": scheme_to_dict(target.scheme)}
    exported, layers = write_model(model, target.folder, description, format=format, precision=precision, images=images)
    if (format, precision) == ("openvino", "int8"):
        exported = compress_exported(exported, target.folder)
    saved_bytes = sum(facts["bytes"] for facts in exported.description["files"].values())
    return PreparedModel(open_backend(exported, None), layers, saved_bytes)


def _missing(*packages: str) -> str | None:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}; pip install '.[quantize]'" if absent else None


# ------------------------------------------------------------------ torch
def _torch_method(quantize: Callable[[nn.Module], frozenset[str]], *packages: str) -> QuantizationMethod:
    """Make a method of a function that quantizes a module in place and returns the names of the quantized layers."""

    def why_unavailable() -> str | None:
        layer = nn.Sequential(nn.Linear(16, 16)).eval().requires_grad_(False)
        try:
            with torch.inference_mode():
                quantize(layer)
                layer(torch.zeros(1, 4, 16))
        except Exception as error:  # whatever this version of torch or torchao raises, the method cannot run here
            return f"{type(error).__name__}: {one_line(error)[:200]}"
        return None

    def prepare(model: Sam, target: Target | None) -> PreparedModel:
        network, buffer = inference_copy(model), io.BytesIO()
        quantized = quantize(network)
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch.ao's tensors are deprecated
            torch.save(network.state_dict(), buffer)
        backend = TorchBackend(network, device="cpu", precision="fp32")
        return PreparedModel(backend, quantized, buffer.getbuffer().nbytes)

    return QuantizationMethod(lambda: _missing(*packages) or why_unavailable(), prepare)


def _quantize_dynamic(module: nn.Module) -> frozenset[str]:
    """Replace every nn.Linear by torch.ao's dynamic int8 one; no other layer has a dynamic form."""
    quantization: Any = importlib.import_module("torch.ao.quantization")
    dynamic: Any = importlib.import_module("torch.ao.nn.quantized.dynamic")
    # Deprecated, but the paper's method; a torch without it is noticed.
    with warnings.catch_warnings(action="ignore"):
        quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8, inplace=True)
    return frozenset(name for name, layer in module.named_modules() if isinstance(layer, dynamic.Linear))


def _quantize_torchao(module: nn.Module) -> frozenset[str]:
    """Give every nn.Linear an int8 weight per row and int8 activations per token."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # importing torchao logs notes to its developers
    quantization, utils = (importlib.import_module(f"torchao.{name}") for name in ("quantization", "utils"))
    # Nothing is compiled, so inductor's settings stay as they are.
    config = quantization.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    quantization.quantize_(module, config)
    layers = ((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear))
    return frozenset(name for name, layer in layers if isinstance(layer.weight, utils.TorchAOBaseTensor))


METHODS: dict[str, QuantizationMethod] = {
    "none": _torch_method(lambda module: frozenset()),
    "dynamic_qint8": _torch_method(_quantize_dynamic),
    "torchao_int8": _torch_method(_quantize_torchao, "torchao"),
    "openvino_bf16": QuantizationMethod(
        lambda: None if has_bf16(open_core()) else "this CPU has no bfloat16; OpenVINO would compute in float32",
        partial(_prepare_exported, "openvino", "bf16"),
    ),
    "openvino_int8": QuantizationMethod(partial(_missing, "nncf"), partial(_prepare_exported, "openvino", "int8")),
    "onnxruntime_dynamic": QuantizationMethod(
        partial(_missing, "onnx", "onnxscript", "onnxruntime"), partial(_prepare_exported, "onnx", "int8")
    ),
}
