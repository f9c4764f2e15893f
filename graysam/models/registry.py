"""The models that graysam knows: numbers of the image encoders and of SAM's heads, building them, opening their files.

All take square images of INPUT_SIZE pixels and return masks of the same size.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from torch import nn

from graysam.imaging.channels import Scheme, load_scheme, scheme_from_dict
from graysam.models.conv_encoder import Backbone, ConvPyramidEncoder
from graysam.models.heads import MaskDecoder, PromptEncoder, TwoWayTransformer
from graysam.models.image_encoders import EfficientVitSamEncoder, TinyVitSamEncoder
from graysam.models.sam import Sam
from graysam.models.weights import WeightFile, WeightSource, load_parts, read_weights
from graysam.system.terminal import one_line

INPUT_SIZE = 256  # px
HeadNumbers = Mapping[str, int]  # of SAM_HEADS
UNCHANGED: Any = {}  # no number is replaced


class EncoderNumbers(TypedDict, total=False):
    """Numbers of an image encoder; `kind` decides which of them it has."""

    kind: Literal["efficientvit_sam", "tiny_vit_sam", "conv_pyramid"]
    widths: list[int]
    depths: list[int]
    neck_depth: int
    neck_expand_ratio: float
    embedding_dim: int
    embedding_size: int
    embed_dims: list[int]
    num_heads: list[int]
    window_sizes: list[int]
    backbone: Backbone
    width: int
    depth: int


# Of the prompt encoder and the mask decoder; LiteMedSAM, MedSAM and SAM share them.
SAM_HEADS: HeadNumbers = {
    "dim": 256,
    "embedding_size": 64,
    "input_size": INPUT_SIZE,
    "mask_channels": 16,
    "depth": 2,
    "num_heads": 8,
    "mlp_dim": 2048,
    "downsample_rate": 2,
    "num_multimask": 3,
    "head_depth": 3,
    "head_hidden": 256,
}


def _efficientvit_sam(depths: list[int], neck_depth: int) -> EncoderNumbers:
    return EncoderNumbers(
        kind="efficientvit_sam",
        widths=[32, 64, 128, 256, 512],
        depths=depths,
        neck_depth=neck_depth,
        neck_expand_ratio=1,
        embedding_dim=256,
        embedding_size=64,
    )


ENCODERS: dict[str, EncoderNumbers] = {
    "efficientvit_sam_l0": _efficientvit_sam([1, 1, 1, 4, 4], neck_depth=4),
    "efficientvit_sam_l1": _efficientvit_sam([1, 1, 1, 6, 6], neck_depth=8),
    "efficientvit_sam_l2": _efficientvit_sam([1, 2, 2, 8, 8], neck_depth=12),
    "lite_medsam": EncoderNumbers(  # TinyViT-5M
        kind="tiny_vit_sam",
        embed_dims=[64, 128, 160, 320],
        depths=[2, 2, 6, 2],
        num_heads=[2, 4, 5, 10],
        window_sizes=[7, 7, 14, 7],
        embedding_dim=256,
    ),
    "graysam_s": EncoderNumbers(kind="conv_pyramid", backbone="regnety_016", width=128, depth=3, embedding_dim=256),
}


def model_config(name: str, *, encoder: EncoderNumbers = UNCHANGED, heads: HeadNumbers = UNCHANGED) -> dict[str, Any]:
    """Return all numbers of a registered model, the arguments of `build_sam`: `name`, `encoder` and `heads`.

    Args:
        name: a key of ENCODERS.
        encoder, heads: numbers that replace the registered ones.

    Raises:
        ValueError: an unknown name, or a number that the model does not have.
    """
    if name not in ENCODERS:
        raise ValueError(f"model {name!r} is unknown; choose one of {', '.join(ENCODERS)}")
    numbers: dict[str, Any] = {"name": name}
    for part, registered, changes in (("encoder", ENCODERS[name], encoder), ("heads", SAM_HEADS, heads)):
        if unknown := sorted(set(changes) - set(registered)):
            raise ValueError(f"{part} of {name}: no number {', '.join(unknown)}; it has {', '.join(registered)}")
        numbers[part] = {**registered, **changes}
    return numbers


def build_model(name: str, *, encoder: EncoderNumbers = UNCHANGED, heads: HeadNumbers = UNCHANGED) -> Sam:
    """Build a registered model in training mode with random weights; arguments as for `model_config`."""
    return build_sam(**model_config(name, encoder=encoder, heads=heads))


def build_sam(*, name: str, encoder: Mapping[str, Any], heads: Mapping[str, Any]) -> Sam:
    """Build a model in training mode with random weights.

    Args:
        name: for messages.
        encoder: `kind` and that encoder's arguments.
        heads: all numbers of SAM_HEADS.

    Raises:
        ValueError: an unknown encoder, or numbers that an encoder or the heads do not take.
    """
    # A checkpoint names its encoder by a key and never by an import path, so that a file cannot run code.
    classes: dict[str, Callable[..., nn.Module]] = {
        "efficientvit_sam": EfficientVitSamEncoder,
        "tiny_vit_sam": TinyVitSamEncoder,
        "conv_pyramid": ConvPyramidEncoder,
    }
    arguments = dict(encoder)
    try:
        image_encoder: nn.Module = classes[arguments.pop("kind")](**arguments)
        prompt_encoder = PromptEncoder(
            embedding_dim=heads["dim"],
            **{key: heads[key] for key in ("embedding_size", "input_size", "mask_channels")},
        )
        mask_decoder = MaskDecoder(
            dim=heads["dim"],
            num_multimask=heads["num_multimask"],
            mlp_depth=heads["head_depth"],
            mlp_hidden=heads["head_hidden"],
            transformer=TwoWayTransformer(
                **{key: heads[key] for key in ("depth", "dim", "num_heads", "mlp_dim", "downsample_rate")}
            ),
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"model {name!r} cannot be built: {error!r}") from None
    return Sam(image_encoder=image_encoder, prompt_encoder=prompt_encoder, mask_decoder=mask_decoder)


def check_grid(*, encoder: Mapping[str, Any], heads: Mapping[str, Any], size: int) -> None:
    """Raise ValueError where images of `size` pixels, boxes, embeddings and masks would lie on different grids."""
    dim, side = heads["dim"], heads["embedding_size"]
    for name, value, required in (
        ("model.heads.input_size", heads["input_size"], size),
        ("4 x model.heads.embedding_size", 4 * side, size),  # the decoder's masks are 4 times finer
        ("model.encoder.embedding_size", encoder.get("embedding_size", side), side),
        ("model.encoder.embedding_dim", encoder["embedding_dim"], dim),
    ):
        if value != required:
            raise ValueError(f"{name} is {value}; data.size {size} and model.heads require {required}")


@dataclass(frozen=True)
class Pretrained:
    """A trained model and what its file says of it.

    Attributes:
        model: in evaluation mode, float32, on the CPU.
        numbers: the arguments of `build_sam`.
        size: side of its square input in pixels.
        scheme: the channels it was trained on, None where the file does not say.
        source: of its weights.
    """

    model: Sam
    numbers: Mapping[str, Any]
    size: int
    scheme: Scheme | None
    source: WeightSource


def open_pretrained(name_or_path: str) -> Pretrained:
    """Build the model that a file holds, with its weights.

    Args:
        name_or_path: as for `read_weights`; graysam's own files describe their model, official ones are recognised by
            their keys.

    Raises:
        ValueError: a file that cannot be read, holds no complete model, or does not fit its own description.
    """
    file = read_weights(name_or_path)
    scheme: Scheme | None
    if file.metadata is None:
        name = model_name(file)
        numbers, size = model_config(name), INPUT_SIZE
        scheme = load_scheme("replicate") if name == "lite_medsam" else None
        model = build_sam(**numbers)
    else:
        try:
            numbers, size = dict(file.metadata["model"]), int(file.metadata["size"])
            scheme = scheme_from_dict(file.metadata["channels"])
            model = build_sam(**numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name_or_path}: its description of the model is damaged ({one_line(error)})") from None
    source = load_parts(model, file)
    return Pretrained(model.eval(), numbers, size, scheme, source)


def model_name(file: WeightFile) -> str:
    """Return the registered name of the model in a file without a description; ValueError where none is known."""
    layout = file.source.layout
    if layout == "graysam" and "image_encoder.pyramid.laterals.0.conv.weight" in file.tensors:
        return "graysam_s"
    if layout == "lite_medsam":
        return "lite_medsam"
    # Blocks of the last stage -> registered name; EfficientViT-SAM's files do not tell their size.
    sizes = {5: "efficientvit_sam_l0", 7: "efficientvit_sam_l1", 9: "efficientvit_sam_l2"}
    matches = (re.match(r"image_encoder\.backbone\.stages\.3\.blocks\.(\d+)\.", key) for key in file.tensors)
    blocks = {match[1] for match in matches if match}
    if layout == "efficientvit_sam" and len(blocks) in sizes:
        return sizes[len(blocks)]
    raise ValueError(
        f"weights {file.source.path} are of no complete model that graysam builds ([{layout}]); MedSAM and SAM files "
        "only give heads to training"
    )
