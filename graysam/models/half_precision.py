"""Store a trained model as a float16 `.safetensors` file that describes its content."""

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

    Vectors stay float32: they are a hundredth of the size, and batch norm's variances exceed float16's range.

    Raises:
        ValueError: values that are not finite in float16, with the names of their tensors.
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
    """Write a checkpoint's weights and description as float16 `.safetensors`.

    The description keeps the names of the files that training started from, without their folders.

    Args:
        file: from `read_weights`.
        path: ending in .safetensors; an existing file is replaced.

    Raises:
        ValueError: another suffix, a file that does not describe its model, or values beyond float16's range.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"-o {path} holds weights, so its name must end in .safetensors")
    starts = [{**source, "path": Path(source["path"]).name} for source in file.description.get("weights", [])]
    description: dict[str, Any] = {**file.description, "weights": starts, "made_from": {"sha256": file.source.sha256}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(half(file.tensors), temporary, metadata={METADATA_KEY: json.dumps(description, sort_keys=True)})
