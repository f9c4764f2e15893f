"""Explicit tables from the key names of published files to ours.

The tables were derived from the key lists of the original checkpoints (EfficientViT-SAM, LiteMedSAM, MedSAM); the
137 keys of the heads have the same names everywhere. A key that no rule touches keeps its name.
"""

import re
from collections.abc import Callable, Collection

Rule = tuple[str, str | Callable[[re.Match[str]], str]]

HEAD_PREFIXES = ("prompt_encoder.", "mask_decoder.")
BACKBONE = "image_encoder.backbone."

# Layout of a file -> beginning of keys that only it has, and its rules, applied one after the other. Of `sam_vit` files
# only the heads are used; `graysam` is our own naming.
LAYOUTS: dict[str, tuple[str, tuple[Rule, ...]]] = {
    "efficientvit_sam": (
        f"{BACKBONE}stages.0.op_list.",
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
    "graysam": (BACKBONE, ()),
}


def recognise(keys: Collection[str]) -> str:
    """Return the layout (a key of LAYOUTS) of a state dictionary's keys; ValueError for keys of no known model."""
    for layout, (mark, _) in LAYOUTS.items():
        if any(key.startswith(mark) for key in keys):
            return layout
    if keys and all(key.startswith(HEAD_PREFIXES) for key in keys):
        return "graysam"
    raise ValueError(
        f"its {len(keys)} tensors ({', '.join(list(keys)[:3])}, ...) are of no known model; known are "
        "EfficientViT-SAM, LiteMedSAM, MedSAM/SAM with a ViT encoder, and graysam's own"
    )


def rename(key: str, layout: str) -> str:
    """Return our name of a file's key."""
    if key.startswith("image_encoder."):
        for pattern, replacement in LAYOUTS[layout][1]:
            key = re.sub(pattern, replacement, key, count=1)
    return key
