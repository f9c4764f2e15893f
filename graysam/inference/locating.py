"""Find the exported model that a MODEL argument stands for: shipped, a folder, or exported earlier into the cache."""

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from graysam.inference.exported_model import DESCRIPTION, EXPORT_VERSION, ExportedModel, is_exported, read_exported
from graysam.inference.openvino_core import allow_converter
from graysam.system.extras import check_extra
from graysam.system.files import sha256_of
from graysam.system.folders import user_cache_dir, weights_dir
from graysam.system.terminal import one_line

DEFAULT_PRECISION = "int8"  # of what is shipped, and of what is exported on first use


def shipped_models() -> dict[str, list[str]]:
    """Return the models that come with graysam, and the precisions of each; empty without any."""
    models: dict[str, list[str]] = {}
    for path in sorted(weights_dir().glob(f"*/{DESCRIPTION}")):
        model, _, precision = path.parent.name.rpartition("_")
        models.setdefault(model, []).append(precision)
    return models


def exported_path(model: str, precision: str | None = None, channels: str | None = None, *, onnx: bool = False) -> Path:
    """Return the folder of an exported model, or the one in the user's cache where it belongs once it is exported.

    A weight file is identified by its content, wherever it lies. Nothing is exported here.

    Args:
        model: an exported model's folder, a model that comes with graysam, a weight file, or a name of one.
        precision: `fp32`, `bf16` or `int8`; None takes a folder as it is, and int8 otherwise.
        channels: the scheme asked for where a weight file does not name its own; part of what int8 is calibrated on, so
            exports with others are others.
        onnx: whether it is to be in the ONNX format, whose precision is fp32.

    Raises:
        ValueError: a model that does not exist.
    """
    path = Path(model)
    if path.is_dir():
        return path
    variant = "onnx" if onnx else precision or DEFAULT_PRECISION
    shipped = weights_dir() / f"{model}_{variant}"
    if path.name == model and is_exported(shipped):
        return shipped
    own = weights_dir() / f"{model}.safetensors"
    if path.name == model and own.is_file():
        path = own
    if path.is_file():
        source = sha256_of(path)
    elif path.suffix or path.name != model:
        raise ValueError(f"{model} does not exist; give an exported model's folder, a weight file or {_known()}")
    else:
        source = model  # whose file's hash is checked whenever it is read
    identity = json.dumps([source, variant, channels, EXPORT_VERSION])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return user_cache_dir() / "bundles" / f"{path.stem}_{variant}_{key}"


def open_exported(
    model: str, precision: str | None = None, channels: str | None = None, *, onnx: bool = False
) -> ExportedModel:
    """Read and check an exported model; the arguments are those of `exported_path`.

    Raises:
        ValueError: there is none, it is damaged, or a folder's precision is not the one asked for.
    """
    path = exported_path(model, precision, channels, onnx=onnx)
    if not path.is_dir():
        raise ValueError(
            f"{model} is not exported as {'onnx' if onnx else precision or DEFAULT_PRECISION} yet; give the folder "
            f"that graysam export writes (it needs pip install '.[train,quantize,demo]'), or {_known()}"
        )
    exported = read_exported(path)
    if precision not in (None, exported.precision):
        raise ValueError(
            f"{model} is exported as {exported.precision}, but {precision} is asked for; "
            f"leave the precision out, or export the model as {precision} (graysam export)"
        )
    return exported


def export_on_first_use(model: str, precision: str | None, channels: str | None, threads: int | None) -> Path:
    """Return a model's folder, exporting a weight file into the user's cache first; int8 is calibrated on the demo.

    Raises:
        ValueError: weights that cannot be exported, a missing extra, or an exported model that segments too much worse
            than in torch.
    """
    folder = exported_path(model, precision, channels)
    if folder.is_dir():
        return folder
    for extra in ("train", "quantize", "demo"):
        check_extra(extra)
    allow_converter()
    pipeline: Any = importlib.import_module("graysam.exporting.pipeline")
    precision = precision or DEFAULT_PRECISION
    print(f"{model} is exported as {precision}, once, into {folder}", flush=True)
    try:
        pipeline.export_model(model, folder, precision=precision, channels=channels, threads=threads)
    except pipeline.BelowGate as error:
        raise ValueError(
            f"{model} segments too much worse as {precision} than in torch ({one_line(error)}); "
            "give another --precision, or --backend torch"
        ) from None
    return folder


def _known() -> str:
    models = shipped_models()
    return " or ".join(f"{model} ({', '.join(found)})" for model, found in models.items()) or "lite_medsam"
