"""Build a Sam from plain numbers, as `conf/model/*.yaml` and checkpoints hold them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from graysam.models.image_encoders import EfficientVitSamEncoder, TinyVitSamEncoder
from graysam.models.mask_decoder import MaskDecoder
from graysam.models.prompt_encoder import PromptEncoder
from graysam.models.sam import Sam
from graysam.models.transformer import TwoWayTransformer

# A checkpoint names its encoder by a key of this table and never by an import path, so that a file cannot run code.
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "efficientvit_sam": EfficientVitSamEncoder,
    "tiny_vit_sam": TinyVitSamEncoder,
}


def build_sam(*, name: str, encoder: Mapping[str, Any], heads: Mapping[str, Any]) -> Sam:
    """Build a model in training mode with random weights.

    Args:
        name: what reports call the model; it changes nothing here.
        encoder: `kind` (a key of ENCODERS) and that encoder's arguments.
        heads: dim, embedding_size, input_size, mask_channels, depth, num_heads, mlp_dim, downsample_rate,
            num_multimask, head_depth, head_hidden.

    Raises:
        ValueError: an unknown encoder kind, or arguments that an encoder or the heads do not take.
    """
    arguments = dict(encoder)
    kind = arguments.pop("kind", None)
    if kind not in ENCODERS:
        raise ValueError(f"model {name!r}: encoder kind {kind!r} is unknown; known are {', '.join(ENCODERS)}")
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
        raise ValueError(f"model {name!r} cannot be built: {error}; compare with conf/model/*.yaml") from error
    return Sam(image_encoder=image_encoder, prompt_encoder=prompt_encoder, mask_decoder=mask_decoder)
