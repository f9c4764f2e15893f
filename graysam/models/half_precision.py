"""Store a trained model in half the space: one `.safetensors` file that says what it holds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from graysam.models.weights import METADATA_KEY, WeightFile
from graysam.system.files import replacing


def half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with matrices and kernels in float16.

    Vectors stay float32: they are a hundredth of the size, and batch norm's variances need more range than float16 has.

    Raises:
        ValueError: naming the tensors that hold values beyond float16's range, or no numbers.
    """
    halves = {
        key: (value.half() if value.is_floating_point() and value.ndim > 1 else value).contiguous()
        for key, value in tensors.items()
    }
    bad = [key for key, value in halves.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"these weights cannot be stored in float16: {', '.join(bad[:5])}; keep the checkpoint instead"
        )
    return halves


def save_half(file: WeightFile, path: Path) -> None:
    """Write what a checkpoint of graysam holds as float16 `.safetensors`, description and all.

    Args:
        file: what `read_weights` gave of a checkpoint.
        path: the file's name, ending in .safetensors; one that is there is replaced.

    The description names the files that training started from without their folders, which are nobody else's business.

    Raises:
        ValueError: the file does not describe its model, the name ends otherwise, or `half` refuses.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"-o {path} holds weights, so its name must end in .safetensors")
    if file.metadata is None:
        raise ValueError(f"{file.source.path} does not describe its model; give a checkpoint of graysam")
    starts = [{**source, "path": Path(source["path"]).name} for source in file.metadata.get("weights", [])]
    description: dict[str, Any] = {**file.metadata, "weights": starts, "made_from": {"sha256": file.source.sha256}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(half(file.tensors), temporary, metadata={METADATA_KEY: json.dumps(description, sort_keys=True)})
