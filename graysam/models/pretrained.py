"""Open a trained model from whatever file holds it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graysam.imaging.channels import Scheme, load_scheme, scheme_from_dict
from graysam.models.registry import INPUT_SIZE, build_sam, model_config
from graysam.models.sam import Sam
from graysam.models.weights import WeightFile, WeightSource, load_parts, read_weights
from graysam.system.terminal import one_line

# Blocks of the last stage -> registered name; EfficientViT-SAM's files do not tell their size.
_EFFICIENTVIT_SIZES = {5: "efficientvit_sam_l0", 7: "efficientvit_sam_l1", 9: "efficientvit_sam_l2"}


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
            raise ValueError(
                f"{name_or_path}: the description graysam stored in it is damaged ({one_line(error)}); "
                "give an intact checkpoint"
            ) from None
    source = load_parts(model, file)
    return Pretrained(model.eval(), numbers, size, scheme, source)


def model_name(file: WeightFile) -> str:
    """Return the registered name of the model in an official file; ValueError where it has no known encoder."""
    layout = file.source.layout
    if layout == "lite_medsam":
        return "lite_medsam"
    matches = (re.match(r"image_encoder\.backbone\.stages\.3\.blocks\.(\d+)\.", key) for key in file.tensors)
    blocks = {match[1] for match in matches if match}
    if layout == "efficientvit_sam" and len(blocks) in _EFFICIENTVIT_SIZES:
        return _EFFICIENTVIT_SIZES[len(blocks)]
    raise ValueError(
        f"weights {file.source.path} hold no model that can be run as it is ([{layout}]); required: LiteMedSAM, "
        "EfficientViT-SAM L0/L1/L2, or a checkpoint of graysam; MedSAM and SAM files only give heads to training"
    )
