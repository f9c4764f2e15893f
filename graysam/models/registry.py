"""The sizes of the models that graysam knows by name: numbers of the image encoders and of SAM's heads.

All take square images of INPUT_SIZE pixels and return masks of the same size.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from graysam.models.build import EncoderNumbers, HeadNumbers, build_sam
from graysam.models.sam import Sam

INPUT_SIZE = 256  # px
UNCHANGED: Any = {}  # no number is replaced

# LiteMedSAM, MedSAM and SAM share these.
SAM_HEADS = HeadNumbers(
    dim=256,
    embedding_size=64,
    input_size=INPUT_SIZE,
    mask_channels=16,
    depth=2,
    num_heads=8,
    mlp_dim=2048,
    downsample_rate=2,
    num_multimask=3,
    head_depth=3,
    head_hidden=256,
)


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
}


def model_config(name: str, *, encoder: EncoderNumbers = UNCHANGED, heads: HeadNumbers = UNCHANGED) -> dict[str, Any]:
    """Return all numbers of a registered model, the arguments of `build_sam`.

    Args:
        name: a key of ENCODERS.
        encoder, heads: numbers that replace the registered ones.

    Returns:
        `name`, `encoder` and `heads`, as new plain containers.

    Raises:
        ValueError: an unknown name, or a number that the model does not have.
    """
    if name not in ENCODERS:
        raise ValueError(f"model {name!r} is unknown; choose one of {', '.join(ENCODERS)}")
    return {
        "name": name,
        "encoder": _replace(ENCODERS[name], encoder, f"encoder of {name}"),
        "heads": _replace(SAM_HEADS, heads, f"heads of {name}"),
    }


def build_model(name: str, *, encoder: EncoderNumbers = UNCHANGED, heads: HeadNumbers = UNCHANGED) -> Sam:
    """Build a registered model in training mode with random weights; arguments as for `model_config`."""
    return build_sam(**model_config(name, encoder=encoder, heads=heads))


def _replace(numbers: Mapping[str, object], changes: Mapping[str, object], owner: str) -> dict[str, Any]:
    for key in changes:
        if key not in numbers:
            near = get_close_matches(key, numbers, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(numbers)}"
            raise ValueError(f"{owner}: no number {key!r}; {hint}")
    merged = {**numbers, **changes}
    return {key: list(value) if isinstance(value, list | tuple) else value for key, value in merged.items()}
