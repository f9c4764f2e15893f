"""Explicit tables from the key names of published files to ours.

The tables were derived from the key lists of the original checkpoints (EfficientViT-SAM, LiteMedSAM, MedSAM); the
137 keys of the heads have the same names everywhere. A key that no rule touches keeps its name.
"""

import re
from collections.abc import Callable, Mapping

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

HEAD_PREFIXES = ("prompt_encoder.", "mask_decoder.")
ENCODER_PREFIX = "image_encoder."


def _stage(match: re.Match[str]) -> str:
    return f"image_encoder.backbone.stages.{int(match[1]) - 1}.blocks.{match[2]}."


def _conv(name: str) -> str:
    return "conv" if name == "c" else name


_EFFICIENTVIT_SAM: tuple[Rule, ...] = (
    (r"^image_encoder\.backbone\.stages\.0\.op_list\.0\.", "image_encoder.backbone.stem.in_conv."),
    (
        r"^image_encoder\.backbone\.stages\.0\.op_list\.(\d+)\.",
        lambda m: f"image_encoder.backbone.stem.res{int(m[1]) - 1}.",
    ),
    (r"^image_encoder\.backbone\.stages\.([1-9]\d*)\.op_list\.(\d+)\.", _stage),
    (r"^image_encoder\.neck\.input_ops\.(\d)\.op_list\.0\.", r"image_encoder.neck.laterals.\1."),
    (r"^image_encoder\.neck\.middle\.op_list\.(\d+)\.", r"image_encoder.neck.blocks.\1."),
    (r"^image_encoder\.neck\.output_ops\.0\.op_list\.0\.conv\.", "image_encoder.neck.head."),
)

_LITE_MEDSAM: tuple[Rule, ...] = (
    (
        r"^image_encoder\.patch_embed\.seq\.([02])\.(c|bn)\.",
        lambda m: f"image_encoder.backbone.patch_embed.conv{int(m[1]) // 2 + 1}.{_conv(m[2])}.",
    ),
    (
        r"^image_encoder\.layers\.(\d)\.downsample\.(conv\d)\.(c|bn)\.",
        lambda m: f"image_encoder.backbone.stages.{int(m[1]) + 1}.downsample.{m[2]}.{_conv(m[3])}.",
    ),
    (
        r"^image_encoder\.layers\.(\d)\.blocks\.(\d+)\.(conv\d|local_conv)\.(c|bn)\.",
        lambda m: f"image_encoder.backbone.stages.{m[1]}.blocks.{m[2]}.{m[3]}.{_conv(m[4])}.",
    ),
    (r"^image_encoder\.layers\.(\d)\.blocks\.(\d+)\.", r"image_encoder.backbone.stages.\1.blocks.\2."),
)

# Layout of a file -> its rules. `sam_vit` files give only their heads; `graysam` is our own naming.
LAYOUTS: Mapping[str, tuple[Rule, ...]] = {
    "efficientvit_sam": _EFFICIENTVIT_SAM,
    "lite_medsam": _LITE_MEDSAM,
    "sam_vit": (),
    "graysam": (),
}

_MARKS = {
    "efficientvit_sam": "image_encoder.backbone.stages.0.op_list.",
    "lite_medsam": "image_encoder.patch_embed.seq.",
    "sam_vit": "image_encoder.blocks.",
    "graysam": "image_encoder.backbone.",
}


def recognise(keys: list[str]) -> str:
    """Return the layout (a key of LAYOUTS) of a state dictionary's keys; ValueError for keys of no known model."""
    for layout, mark in _MARKS.items():
        if any(key.startswith(mark) for key in keys):
            return layout
    if keys and all(key.startswith(HEAD_PREFIXES) for key in keys):
        return "graysam"
    raise ValueError(
        f"the {len(keys)} keys (first: {', '.join(keys[:3]) or 'none'}) are of no known model; known are "
        "EfficientViT-SAM, LiteMedSAM, MedSAM/SAM with a ViT encoder, and graysam's own"
    )


def rename(key: str, layout: str) -> str:
    """Return our name of a file's key; the first matching rule of the layout wins."""
    for pattern, replacement in LAYOUTS[layout]:
        renamed, count = re.subn(pattern, replacement, key, count=1)
        if count:
            return renamed
    return key
