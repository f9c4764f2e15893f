"""Exported models: a folder with graphs and `bundle.json`, which describes them and lists every file's hash."""

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from graysam.imaging.channels import Scheme, scheme_from_dict
from graysam.inference.openvino_core import CONVERTER
from graysam.system.environment import check_extra, find_weights, user_cache_dir, weights_dir
from graysam.system.files import replacing_folder, sha256_of, write_json_file
from graysam.system.outputs import check_output_folder
from graysam.system.terminal import one_line

FORMAT = 1  # of bundle.json
EXPORT_VERSION = 4  # raised when exporting the same weights gives other graphs, so that cached ones are replaced
DESCRIPTION = "bundle.json"
DEFAULT_PRECISION = "int8"  # of what is shipped, and of what is exported on first use

_FILE_NAME = re.compile(r"\w+\.(xml|bin|onnx|onnx\.data)")  # of this folder, whatever bundle.json says


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A model ready to run, its files verified by their hashes.

    Attributes:
        path: the folder.
        name: the model's.
        format: `openvino` or `onnx`.
        precision: `fp32`, `bf16` or `int8`.
        precision_hint: OpenVINO's INFERENCE_PRECISION_HINT, `f32` or `bf16`; None leaves the choice to OpenVINO.
        size: side of the square input in pixels.
        scheme: the channels that the model was trained on.
        graphs: stem -> `.xml` or `.onnx` file: encoder, and decoder or its steps box_tokens and box_decoder.
        description: all of `bundle.json`.
    """

    path: Path
    name: str
    format: str
    precision: str
    precision_hint: str | None
    size: int
    scheme: Scheme
    graphs: Mapping[str, Path]
    description: Mapping[str, Any]

    def digest(self, stem: str) -> str:
        """Return the SHA-256, as 64 hexadecimal digits, of one graph and its weights."""
        files: Mapping[str, Any] = self.description["files"]
        facts = [(name, files[name]["sha256"]) for name in sorted(files) if name.partition(".")[0] == stem]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def is_exported(path: Path) -> bool:
    """Return whether a directory holds `bundle.json`, even of a damaged model."""
    return (path / DESCRIPTION).is_file()


def read_exported(path: str | Path) -> ExportedModel:
    """Read an exported model and check every file's SHA-256; files that are not listed are never read.

    Raises:
        ValueError: no exported model, a format of another version of graysam, or a file that is missing, truncated or
            altered; the message names the file and the remedy.
    """
    path = Path(path)
    if not is_exported(path):
        raise ValueError(f"{path} is no exported model, the folder with {DESCRIPTION} that graysam export writes")
    try:
        exported = _described(path, (path / DESCRIPTION).read_bytes())
        for name, facts in exported.description["files"].items():
            if sha256_of(path / name) != facts["sha256"]:
                _refuse(path / name, f"differs from its SHA-256 in {DESCRIPTION}: truncated or altered")
    except FileNotFoundError as error:
        _refuse(Path(error.filename), "is missing")
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror})") from None
    return exported


def write_exported(
    path: str | Path, *, description: Mapping[str, Any], write_graphs: Callable[[Path], None]
) -> ExportedModel:
    """Write an exported model under a temporary name, check it, and rename it; one that exists is replaced.

    Args:
        path: the folder.
        description: `bundle.json` without `format` and `files`, plain containers.
        write_graphs: writes the graphs, and nothing else, into the folder that it is given.

    Raises:
        ValueError: `path` holds something else than an exported model, or what was written makes none.
        OSError: as the file system does. Whatever is raised, `path` stays as it was.
    """
    path = Path(path)
    check_export_folder(path)
    with replacing_folder(path, last=DESCRIPTION) as temporary:
        write_graphs(temporary)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(temporary.iterdir())
        }
        write_json_file(temporary / DESCRIPTION, {**description, "format": FORMAT, "files": files})
        read_exported(temporary)
    return read_exported(path)


def check_export_folder(path: Path) -> None:
    """Raise ValueError for a folder that no model can be exported into."""
    names = rf"{_FILE_NAME.pattern}|{DESCRIPTION}"
    check_output_folder(path, names, DESCRIPTION, "an exported model", "the output")


def _refuse(file: Path, problem: str) -> NoReturn:
    remedy = "reinstall graysam" if weights_dir() in file.parents else "export the model again (graysam export)"
    raise ValueError(f"{file} {problem}; {remedy}")


def _described(path: Path, content: bytes) -> ExportedModel:
    """Return the exported model that a description lists, its files not yet checked."""
    try:
        description = json.loads(content)
        if description["format"] != FORMAT:
            raise ValueError(f"it is of format {description['format']!r}, this version of graysam reads {FORMAT}")
        name, kind, size, files = (description[key] for key in ("name", "kind", "size", "files"))
        checks = {
            "name": isinstance(name, str),
            "kind": kind in ("fp32", "bf16", "int8", "onnx"),
            "precision": description["precision"] in ("f32", "bf16", None),
            "size": type(size) is int and 0 < size <= 4096,
            "files": all(_FILE_NAME.fullmatch(file) and isinstance(files[file]["sha256"], str) for file in files),
        }
        for key, right in checks.items():
            if not right:
                raise ValueError(f"{key} is {description[key]!r}"[:300])
        graph, weights = (".onnx", ".onnx") if kind == "onnx" else (".xml", ".bin")
        graphs = {file.removesuffix(graph): path / file for file in sorted(files) if file.endswith(graph)}
        known = {"encoder", "decoder"}, {"encoder", "box_tokens", "box_decoder"}
        if set(graphs) not in known or not {stem + weights for stem in graphs} <= set(files):
            raise ValueError(f"its files make no model: {', '.join(files)}")
        return ExportedModel(
            path=path,
            name=name,
            format="onnx" if kind == "onnx" else "openvino",
            precision="fp32" if kind == "onnx" else kind,
            precision_hint=description["precision"],
            size=size,
            scheme=scheme_from_dict(description["channels"]),
            graphs=graphs,
            description=description,
        )
    except KeyError as error:
        _refuse(path / DESCRIPTION, f"cannot be used: it has no {error}")
    except (ValueError, TypeError, RecursionError) as error:
        _refuse(path / DESCRIPTION, f"cannot be used: {error}")


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
        channels: the scheme asked for where a weight file does not name its own; exports with others are others.
        onnx: whether it is to be in the ONNX format, whose precision is fp32.

    Raises:
        ValueError: a model that does not exist.
    """
    path = Path(model)
    if path.is_dir():
        if model in shipped_models() and not is_exported(path):
            place = weights_dir() / f"{model}_{precision or DEFAULT_PRECISION}"
            raise ValueError(
                f"{model} is a folder here, without {DESCRIPTION}, that hides the model of this name; "
                f"give --model {place}, or rename the folder"
            )
        return path
    variant = "onnx" if onnx else precision or DEFAULT_PRECISION
    if path.name == model:
        if is_exported(shipped := weights_dir() / f"{model}_{variant}"):
            return shipped
        path = find_weights(f"{model}.safetensors") or path
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
        wanted = "onnx" if onnx else precision or DEFAULT_PRECISION
        raise ValueError(
            f"{model} is not exported as {wanted} yet; give the folder that graysam export writes, or {_known()}"
        )
    exported = read_exported(path)
    if precision not in (None, exported.precision):
        raise ValueError(f"{model} is exported as {exported.precision}, but {precision} is asked for")
    return exported


def export_on_first_use(model: str, precision: str | None, channels: str | None, threads: int | None) -> Path:
    """Return a model's folder, exporting a weight file into the user's cache first; int8 is calibrated on the demo.

    Raises:
        ValueError: weights that cannot be exported or segment too much worse exported, or a missing extra.
    """
    folder = exported_path(model, precision, channels)
    if folder.is_dir():
        return folder
    for extra in ("train", "quantize", "demo"):
        check_extra(extra)
    sys.modules.pop(CONVERTER, None)  # for a process that skipped it
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
