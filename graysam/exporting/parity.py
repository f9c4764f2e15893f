"""Compare an exported model with the torch model it was made of: masks against masks, and both against the truth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.data.dataset import Item
from graysam.inference.backend import Backend, decode_all
from graysam.metrics.aggregation import MACRO, macro_average, modality_means
from graysam.metrics.challenge import binary_metrics, case_metrics, dice

SAME_DSC = 0.999  # least mean DSC between the masks of float32 graphs and torch's, in each modality
MACRO_LOSS = 0.003  # most that lower precisions may lose in macro DSC and NSD
MODALITY_LOSS = 0.007  # and in those of a single modality
EXACT_KINDS = ("fp32", "onnx")
COLUMNS = ("same", "reference_dsc", "reference_nsd", "dsc", "nsd")

Summary = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Row:
    """One object, or one case: DSC between both models' masks, and each one's DSC and NSD against the truth."""

    modality: str
    same: float
    reference: tuple[float, float]
    exported: tuple[float, float]


def check_slices(reference: Backend, exported: Backend, items: Iterable[Item]) -> list[Row]:
    """Segment prepared images with both models on the grid; one row per object."""
    rows = []
    for item in items:
        image, boxes = item.image.numpy()[None], item.boxes.numpy()
        ours, theirs = (
            [logits > 0 for logits, _ in decode_all(backend, backend.encode(image)[0], boxes)]
            for backend in (reference, exported)
        )
        for truth, one, other in zip(item.masks.numpy(), ours, theirs, strict=True):
            rows.append(Row(item.modality, dice(one, other), binary_metrics(truth, one), binary_metrics(truth, other)))
    return rows


def check_case(
    modality: str,
    gts: NDArray[Any],
    reference: NDArray[Any],
    exported: NDArray[Any],
    spacing_mm: Sequence[float] | None,
) -> Row:
    """Score both models' masks of a whole case, as `evaluate` does; `same` is over the labels of both."""
    between = case_metrics(reference, exported, spacing_mm).dsc
    ours, theirs = case_metrics(gts, reference, spacing_mm), case_metrics(gts, exported, spacing_mm)
    return Row(modality, between, (ours.dsc, ours.nsd), (theirs.dsc, theirs.nsd))


def summarize(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Average the rows of each modality, and over modalities.

    Returns:
        For each modality and for `macro`, fractions by COLUMNS and the number of rows `n`; nothing without rows. Two
        empty masks are the same; an object that is in neither the truth nor the mask has no DSC and does not count.
    """
    if not rows:
        return {}
    scores = [(row.modality, [1.0 if np.isnan(row.same) else row.same, *row.reference, *row.exported]) for row in rows]
    means = {**modality_means(scores), MACRO: macro_average(scores)}
    counts = {name: sum(row.modality == name for row in rows) for name in means} | {MACRO: len(rows)}
    return {name: {"n": counts[name], **dict(zip(COLUMNS, row.tolist(), strict=True))} for name, row in means.items()}


def shortcomings(summary: Summary, kind: str) -> list[str]:
    """List how an exported model falls short of the gate; empty where it passes.

    Float32 graphs must give torch's masks; lower precisions must score as well, but for MACRO_LOSS and MODALITY_LOSS.
    Without any measurement, or with a NaN, the gate is not passed.
    """
    if not summary:
        return ["nothing was compared"]
    found = []
    for name, row in summary.items():
        if kind in EXACT_KINDS:
            if not row["same"] >= SAME_DSC:
                found.append(f"{name}: DSC {row['same']:.5f} between its masks and torch's, required {SAME_DSC}")
            continue
        limit = MACRO_LOSS if name == MACRO else MODALITY_LOSS
        for score in ("dsc", "nsd"):
            loss = row[f"reference_{score}"] - row[score]
            if not loss <= limit:
                text = f"{name}: {score.upper()} is {100 * loss:.2f} points below torch's, allowed {100 * limit:.1f}"
                found.append(text)
    return found


def table(summary: Summary) -> str:
    """Format the summary: modality, n, DSC between the masks, DSC / NSD of torch and of the exported model in %."""
    lines = [f"{'':14}{'n':>5}{'same':>10}{'torch':>17}{'exported':>17}"]
    for name, row in summary.items():
        pairs = [f"{100 * row[dsc]:.2f} / {100 * row[nsd]:.2f}" for dsc, nsd in (COLUMNS[1:3], COLUMNS[3:])]
        lines.append(f"{name:14}{row['n']:5.0f}{row['same']:10.5f}{pairs[0]:>17}{pairs[1]:>17}")
    return "\n".join(lines)
