"""Blend a fine-tuned model with the one that its training started from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from graysam.models.weights import WeightFile

SAME = ("model", "channels", "size")  # what two descriptions must share for a value between them to mean something


def blend(start: WeightFile, tuned: WeightFile, share: float) -> WeightFile:
    """Return the model between two of one lineage: (1 - share) x start + share x tuned, tensor by tensor.

    Fine-tuning gains on what it is trained on and loses elsewhere; weights between start and end keep much of both
    (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903). Counters are the tuned model's.

    Args:
        start, tuned: what `read_weights` gave of two checkpoints of the same model, channels and size.
        share: of the tuned model, from 0 (the start) to 1 (the tuned model).

    The result has the tuned model's description, and says in it what it is `blended` of (sha256 and share).

    Raises:
        ValueError: a share outside of 0 to 1, a file that does not describe its model, or models that differ.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"the share of the tuned model is {share}; required: from 0 to 1")
    first, second = _description(start), _description(tuned)
    different = [key for key in SAME if first.get(key) != second.get(key)]
    different += [] if _shapes(start.tensors) == _shapes(tuned.tensors) else ["tensors"]
    if different:
        raise ValueError(
            f"{start.source.path} and {tuned.source.path} differ in {', '.join(different)}; "
            "required: a model and the one that its fine-tuning started from"
        )
    tensors = {
        key: start.tensors[key].lerp(value, share) if value.is_floating_point() else value
        for key, value in tuned.tensors.items()
    }
    blended = [
        {"sha256": start.source.sha256, "share": round(1 - share, 6)},
        {"sha256": tuned.source.sha256, "share": share},
    ]
    return replace(tuned, tensors=tensors, metadata={**second, "blended": blended})


def _description(file: WeightFile) -> Mapping[str, Any]:
    if file.metadata is None:
        raise ValueError(f"{file.source.path} does not describe its model; give a checkpoint of graysam")
    return file.metadata


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], bool]]:
    return {key: (tuple(value.shape), value.is_floating_point()) for key, value in tensors.items()}
