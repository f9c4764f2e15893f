"""Tell from a weight file which model it holds."""

import re
from collections.abc import Mapping

from graysam.models.weights import WeightFile

# Blocks of the last stage -> name in conf/model. A file of EfficientViT-SAM does not say which size it is.
_EFFICIENTVIT_SIZES: Mapping[int, str] = {
    5: "efficientvit_sam_l0",
    7: "efficientvit_sam_l1",
    9: "efficientvit_sam_l2",
}
_LAST_STAGE = re.compile(r"^image_encoder\.backbone\.stages\.3\.blocks\.(\d+)\.")


def model_name(file: WeightFile) -> str:
    """Return the name in `conf/model` of the model that an official file holds.

    Raises:
        ValueError: heads without a supported image encoder, or an EfficientViT-SAM of unknown size.
    """
    layout = file.source.layout
    if layout == "lite_medsam":
        return "lite_medsam"
    blocks = {int(match[1]) for key in file.tensors if (match := _LAST_STAGE.match(key))}
    if layout == "efficientvit_sam" and len(blocks) in _EFFICIENTVIT_SIZES:
        return _EFFICIENTVIT_SIZES[len(blocks)]
    raise ValueError(
        f"weights {file.source.path} hold no model that can be run as it is ([{layout}]); required: LiteMedSAM, "
        "EfficientViT-SAM L0/L1/L2, or a checkpoint of graysam; MedSAM and SAM files only give heads to training"
    )
