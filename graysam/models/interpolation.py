"""Interpolate between the weights of a fine-tuned model and those of the model that its training started from."""

from dataclasses import replace

from graysam.models.weights import WeightFile, read_weights

SAME = ("model", "channels", "size")  # what both descriptions must share


def read_interpolated(tuned: str, start: str | None, weight: float) -> WeightFile:
    """Read a model, interpolated with the one that its training started from; on its own where that is None.

    Raises:
        ValueError: as `read_weights` and `interpolate`.
    """
    file = read_weights(tuned)
    return file if start is None else interpolate(read_weights(start), file, weight)


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
    shapes = [
        {key: (value.shape, value.is_floating_point()) for key, value in file.tensors.items()}
        for file in (start, tuned)
    ]
    different = [key for key in SAME if start.description.get(key) != tuned.description.get(key)]
    different += [] if shapes[0] == shapes[1] else ["tensors"]
    if different:
        raise ValueError(
            f"{start.source.path} and {tuned.source.path} differ in {', '.join(different)}; "
            "required: a model and the one that its fine-tuning started from"
        )
    tensors = {
        key: start.tensors[key].lerp(value, weight) if value.is_floating_point() else value
        for key, value in tuned.tensors.items()
    }
    sources = [
        {"sha256": start.source.sha256, "weight": round(1 - weight, 6)},
        {"sha256": tuned.source.sha256, "weight": weight},
    ]
    return replace(tuned, tensors=tensors, metadata={**tuned.description, "interpolated": sources})
