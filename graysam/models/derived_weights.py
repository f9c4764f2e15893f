"""Weights derived from a trained model's: interpolated with those its training started from, and in float16."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from graysam.models.weights import METADATA_KEY, WeightFile
from graysam.system.files import replacing


def interpolate(start: WeightFile, tuned: WeightFile, weight: float) -> WeightFile:
    """Return (1 - weight) x start + weight x tuned, tensor by tensor; integer counters are the tuned model's.

    Fine-tuning gains accuracy on its training data and loses it elsewhere; interpolated weights keep much of both.

    Args:
        start, tuned: from `read_weights`, two checkpoints of the same model, channels and size.
        weight: of the tuned model, from 0 to 1.

    Returns:
        The tuned model's file with other tensors; its description lists both sources as `interpolated`.

    Raises:
        ValueError: another weight, a file that does not describe its model, or models that differ.

    Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903.
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"the weight of the tuned model is {weight}; required: from 0 to 1")
    shapes = [{key: value.shape for key, value in file.tensors.items()} for file in (start, tuned)]
    old, new = start.description, tuned.description
    different = [key for key in ("model", "channels", "size") if old.get(key) != new.get(key)]
    if different or shapes[0] != shapes[1]:
        what = ", ".join(different) or "tensors"
        raise ValueError(f"{start.source.path} and {tuned.source.path} differ in {what}; required: the same model")
    tensors = {
        key: start.tensors[key].lerp(value, weight) if value.is_floating_point() else value
        for key, value in tuned.tensors.items()
    }
    shares = ((start, round(1 - weight, 6)), (tuned, weight))
    sources = [{"sha256": file.source.sha256, "weight": share} for file, share in shares]
    return replace(tuned, tensors=tensors, metadata={**new, "interpolated": sources})


def save_half(file: WeightFile, path: Path) -> None:
    """Write a checkpoint's weights and description as `.safetensors` with matrices and kernels in float16.

    Vectors stay float32: they are a hundredth of the size, and batch norm's variances exceed float16's range. The
    description keeps the names of the files that training started from, without their folders.

    Args:
        file: from `read_weights`.
        path: ending in .safetensors; an existing file is replaced.

    Raises:
        ValueError: another suffix, a file that does not describe its model, or values beyond float16's range.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"-o {path} holds weights, so its name must end in .safetensors")
    starts = [{**source, "path": Path(source["path"]).name} for source in file.description.get("weights", [])]
    description = {**file.description, "weights": starts, "made_from": {"sha256": file.source.sha256}}
    halves = {
        key: (value.half() if value.is_floating_point() and value.ndim > 1 else value).contiguous()
        for key, value in file.tensors.items()
    }
    if bad := [key for key, value in halves.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"float16 cannot hold the values of {', '.join(bad[:5])}; keep the checkpoint instead")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(halves, temporary, metadata={METADATA_KEY: json.dumps(description, sort_keys=True)})
