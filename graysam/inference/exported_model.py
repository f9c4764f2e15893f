"""Exported models: a folder with graphs and `bundle.json`, which describes them and lists every file's hash."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from graysam.imaging.channels import Scheme
from graysam.imaging.presets import scheme_from_dict
from graysam.system.files import replacing_folder, sha256_of, write_json_file

FORMAT = 1  # of bundle.json
EXPORT_VERSION = 3  # raised when exporting the same weights gives other graphs, so that cached ones are replaced
DESCRIPTION = "bundle.json"
KINDS = ("fp32", "bf16", "int8", "onnx")  # of bundle.json: the precision of OpenVINO graphs, or ONNX in fp32
# OpenVINO's INFERENCE_PRECISION_HINT, for what is not int8; None leaves the choice to OpenVINO.
PRECISION_HINTS = ("f32", "bf16", None)
# One decoder, or one in steps: the boxes' tokens, and the rest.
GRAPHS = (frozenset({"encoder", "decoder"}), frozenset({"encoder", "box_tokens", "box_decoder"}))

_LARGEST_DESCRIPTION = 4 << 20  # bytes; bundle.json has a few kB
_FILE_NAME = re.compile(r"\w+\.(xml|bin|onnx|onnx\.data)")  # of this folder, whatever bundle.json says
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A model ready to run, its files verified by their hashes.

    Attributes:
        path: the folder.
        name: the model's.
        format: `openvino` or `onnx`.
        precision: `fp32`, `bf16` or `int8`.
        precision_hint: of what is not int8, one of PRECISION_HINTS.
        size: side of the square input in pixels.
        scheme: the channels that the model was trained on.
        graphs: stem -> `.xml` or `.onnx` file, the stems being one of GRAPHS.
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
    """Read an exported model and check every file's size and SHA-256; files that are not listed are never read.

    Raises:
        ValueError: no exported model, a format of another version of graysam, or a file that is missing, truncated or
            altered; the message names the file and the remedy.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a directory; give an exported model, the folder that graysam export wrote")
    content = _read_description(path / DESCRIPTION)
    exported = _described(path, content)
    for name, facts in exported.description["files"].items():
        _check_file(path / name, facts["bytes"], facts["sha256"])
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
        ValueError: `path` exists and is no exported model, or what was written makes none.
        OSError: as the file system does. Whatever is raised, `path` stays as it was.
    """
    path = Path(path)
    if path.exists() and not is_exported(path) and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is no exported model, so it is not overwritten; give another name")
    with replacing_folder(path) as temporary:
        write_graphs(temporary)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in sorted(temporary.iterdir())
        }
        write_json_file(temporary / DESCRIPTION, {**description, "format": FORMAT, "files": files})
        read_exported(temporary)
    return read_exported(path)


def _refuse(file: Path, problem: str) -> NoReturn:
    raise ValueError(
        f"{file} {problem}; export the model again (graysam export), or reinstall graysam if it came with it"
    )


@contextmanager
def _reading(file: Path, if_missing: str) -> Iterator[int]:
    """Yield a file's size in bytes; OSErrors become ValueErrors that name it."""
    try:
        yield file.stat().st_size
    except FileNotFoundError:
        _refuse(file, if_missing)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}); give a readable exported model") from None


def _read_description(file: Path) -> bytes:
    with _reading(file, "is missing, so its folder is no exported model") as size_bytes:
        if size_bytes > _LARGEST_DESCRIPTION:
            _refuse(file, f"has {size_bytes} bytes; at most {_LARGEST_DESCRIPTION} are allowed")
        return file.read_bytes()


def _check_file(file: Path, size_bytes: int, sha256: str) -> None:
    with _reading(file, "is missing") as found:
        if found != size_bytes:
            _refuse(file, f"has {found} bytes instead of {size_bytes}: truncated or altered")
        if sha256_of(file) != sha256:
            _refuse(file, "differs from the SHA-256 in bundle.json: altered")


def _described(path: Path, content: bytes) -> ExportedModel:
    """Return the exported model that a description lists, its files not yet checked."""
    file = path / DESCRIPTION
    try:
        description = json.loads(content)
    except (ValueError, RecursionError):
        _refuse(file, "is damaged: invalid JSON")
    if not isinstance(description, dict):
        _refuse(file, "is damaged: not a JSON object")
    if description.get("format") != FORMAT:
        raise ValueError(
            f"{file} is of format {description.get('format')!r}, this version of graysam reads {FORMAT}; "
            "export the model again with this version (graysam export)"
        )
    name, size = description.get("name"), description.get("size")
    if not isinstance(name, str) or not name:
        _refuse(file, "is damaged: it has no name")
    choices: tuple[str | None, ...]
    for key, choices in (("kind", KINDS), ("precision", PRECISION_HINTS)):
        if key not in description or description[key] not in choices:
            given = repr(description.get(key))[:100]
            _refuse(file, f"is damaged: {key} is {given}, not one of {', '.join(map(str, choices))}")
    if type(size) is not int or not 0 < size <= 4096:
        _refuse(file, f"is damaged: size is {size!r}, not a number of pixels up to 4096")
    try:
        scheme = scheme_from_dict(description.get("channels") or {})
    except (ValueError, TypeError) as error:
        _refuse(file, f"is damaged: {error}")
    onnx = description["kind"] == "onnx"
    return ExportedModel(
        path=path,
        name=name,
        format="onnx" if onnx else "openvino",
        precision="fp32" if onnx else description["kind"],
        precision_hint=description["precision"],
        size=size,
        scheme=scheme,
        graphs=_listed_graphs(file, description.get("files"), ".onnx" if onnx else ".xml"),
        description=description,
    )


def _listed_graphs(file: Path, files: Any, suffix: str) -> dict[str, Path]:
    """Check the list of files and return the graphs in it."""
    if not isinstance(files, dict):
        _refuse(file, "is damaged: it lists no files")
    for name, facts in files.items():
        match facts:
            case {"bytes": int(), "sha256": str(digest)} if _FILE_NAME.fullmatch(name) and _SHA256.fullmatch(digest):
                pass
            case _:
                _refuse(file, f"is damaged: it lists {name!r} as {facts!r}"[:300])
    graphs = {name.removesuffix(suffix): file.parent / name for name in sorted(files) if name.endswith(suffix)}
    if frozenset(graphs) not in GRAPHS:
        _refuse(file, f"is damaged: it lists the graphs {', '.join(graphs) or 'none'}")
    if suffix == ".xml":
        for stem in graphs:
            if f"{stem}.bin" not in files:
                _refuse(file, f"is damaged: it lists {stem}.xml without {stem}.bin")
    return graphs
