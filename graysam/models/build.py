"""Build a Sam from plain numbers, as the registry and checkpoints hold them."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from torch import nn

from graysam.models.image_encoders import EfficientVitSamEncoder, TinyVitSamEncoder
from graysam.models.mask_decoder import MaskDecoder
from graysam.models.prompt_encoder import PromptEncoder
from graysam.models.sam import Sam
from graysam.models.transformer import TwoWayTransformer


class EncoderNumbers(TypedDict, total=False):
    """Numbers of an image encoder; `kind` decides which of them it has."""

    kind: Literal["efficientvit_sam", "tiny_vit_sam"]
    widths: list[int]
    depths: list[int]
    neck_depth: int
    neck_expand_ratio: float
    embedding_dim: int
    embedding_size: int
    embed_dims: list[int]
    num_heads: list[int]
    window_sizes: list[int]


class HeadNumbers(TypedDict, total=False):
    """Numbers of the prompt encoder and the mask decoder."""

    dim: int
    embedding_size: int
    input_size: int
    mask_channels: int
    depth: int
    num_heads: int
    mlp_dim: int
    downsample_rate: int
    num_multimask: int
    head_depth: int
    head_hidden: int


# A checkpoint names its encoder by a key of this table and never by an import path, so that a file cannot run code.
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "efficientvit_sam": EfficientVitSamEncoder,
    "tiny_vit_sam": TinyVitSamEncoder,
}

MASK_UPSCALING = 4  # the decoder's masks are so many times finer than the embedding


def check_grid(*, encoder: Mapping[str, Any], heads: Mapping[str, Any], size: int) -> None:
    """Raise ValueError where boxes, embeddings or masks would lie on different grids.

    Args:
        encoder, heads: as for `build_sam`.
        size: side of the images in pixels.
    """
    mask_size = MASK_UPSCALING * heads["embedding_size"]
    if not size == heads["input_size"] == mask_size:
        raise ValueError(
            f"data.size {size}, model.heads.input_size {heads['input_size']} and {MASK_UPSCALING} x "
            f"model.heads.embedding_size {heads['embedding_size']} differ; boxes and masks live on one grid"
        )
    for ours, theirs in (("embedding_dim", "dim"), ("embedding_size", "embedding_size")):
        if ours in encoder and encoder[ours] != heads[theirs]:
            raise ValueError(
                f"model.encoder.{ours} is {encoder[ours]}, but model.heads.{theirs} is {heads[theirs]}; they must agree"
            )


def build_sam(*, name: str, encoder: Mapping[str, Any], heads: Mapping[str, Any]) -> Sam:
    """Build a model in training mode with random weights.

    Args:
        name: for messages and reports.
        encoder: `kind` (a key of ENCODERS) and that encoder's arguments.
        heads: all of HeadNumbers.

    Raises:
        ValueError: an unknown encoder kind, or numbers that an encoder or the heads do not take.
    """
    arguments = dict(encoder)
    kind = arguments.pop("kind", None)
    if kind not in ENCODERS:
        raise ValueError(f"model {name!r}: encoder kind {kind!r} is unknown; known are {', '.join(ENCODERS)}")
    required = HeadNumbers.__annotations__
    if wrong := sorted(set(heads) ^ set(required)):
        raise ValueError(f"model {name!r}: heads: missing or unknown {', '.join(wrong)}; required: {tuple(required)}")
    numbers = {key: int(value) for key, value in heads.items()}
    try:
        image_encoder = ENCODERS[kind](**arguments)
        prompt_encoder = PromptEncoder(
            embedding_dim=numbers["dim"],
            embedding_size=numbers["embedding_size"],
            input_size=numbers["input_size"],
            mask_channels=numbers["mask_channels"],
        )
        transformer = TwoWayTransformer(
            depth=numbers["depth"],
            dim=numbers["dim"],
            num_heads=numbers["num_heads"],
            mlp_dim=numbers["mlp_dim"],
            downsample_rate=numbers["downsample_rate"],
        )
        mask_decoder = MaskDecoder(
            dim=numbers["dim"],
            num_multimask=numbers["num_multimask"],
            mlp_depth=numbers["head_depth"],
            mlp_hidden=numbers["head_hidden"],
            transformer=transformer,
        )
    except (TypeError, KeyError) as error:
        raise ValueError(f"model {name!r} cannot be built: {error}; compare with graysam/models/registry.py") from error
    return Sam(image_encoder=image_encoder, prompt_encoder=prompt_encoder, mask_decoder=mask_decoder)
