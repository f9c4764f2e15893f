"""From a MODEL as users write it to the bundle that runs it: shipped, a folder, or exported earlier."""

import hashlib
import json
from pathlib import Path

from graysam.inference.exported_model import DESCRIPTION, EXPORT_VERSION, ExportedModel, is_exported, read_exported
from graysam.system.files import sha256_of
from graysam.system.folders import user_cache_dir, weights_dir

DEFAULT_KIND = "int8"  # of what is shipped, and of what is exported on the way


def shipped_models() -> dict[str, list[str]]:
    """Return the models that come with graysam, and the kinds of each; empty where none do."""
    models: dict[str, list[str]] = {}
    for path in sorted(weights_dir().glob(f"*/{DESCRIPTION}")):
        model, _, kind = path.parent.name.rpartition("_")
        models.setdefault(model, []).append(kind)
    return models


def exported_path(model: str, precision: str | None = None, channels: str | None = None) -> Path:
    """Return the folder of a model's bundle, or the one in the user's cache where it belongs once it is exported.

    model: a bundle's folder, a model that comes with graysam, a weight file, or a name that stands for one. precision:
    a kind of bundle; None takes a folder as it is, and int8 otherwise. channels: the scheme asked for where a weight
    file does not say its own; it is part of what int8 is calibrated on, so exports with others are others.

    A weight file is known by its content, wherever it lies; nothing is exported here. Raises ValueError for a folder
    of another kind than asked for, and for a model that there is not.
    """
    path = Path(model)
    if path.is_dir():
        return path
    kind = precision or DEFAULT_KIND
    shipped = weights_dir() / f"{model}_{kind}"
    if path.name == model and is_exported(shipped):
        return shipped
    own = weights_dir() / f"{model}.safetensors"
    if path.name == model and own.is_file():
        path = own
    if path.is_file():
        source = sha256_of(path)
    elif path.suffix or path.name != model:
        raise ValueError(f"{model} does not exist; give a bundle's folder, a weight file or {_known()}")
    else:
        source = model  # whose file's hash is checked whenever it is read
    identity = json.dumps([source, kind, channels, EXPORT_VERSION])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return user_cache_dir() / "bundles" / f"{path.stem}_{kind}_{key}"


def open_exported(model: str, precision: str | None = None, channels: str | None = None) -> ExportedModel:
    """Read and check the bundle of a model; the arguments are those of `exported_path`.

    Raises:
        ValueError: there is none, it is damaged, or a bundle's folder is of another kind than `precision`.
    """
    path = exported_path(model, precision, channels)
    if not path.is_dir():
        raise ValueError(
            f"{model} is not exported as {precision or DEFAULT_KIND} yet; give the folder that python -m "
            f"graysam.export writes (it needs pip install '.[train,quantize,demo]'), or {_known()}"
        )
    bundle = read_exported(path)
    if precision not in (None, bundle.kind):
        raise ValueError(
            f"{model} is a bundle of kind {bundle.kind}, but {precision} is asked for; "
            f"leave the precision out, or export the model as {precision} (python -m graysam.export)"
        )
    return bundle


def _known() -> str:
    models = shipped_models()
    return " or ".join(f"{model} ({', '.join(kinds)})" for model, kinds in models.items()) or "lite_medsam"
