"""Does an exported model segment as the one it was made of? Masks against masks, and both against the truth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.inference.volume import Backend, decode_all
from graysam.metrics.challenge import binary_metrics, case_metrics
from graysam.metrics.dice import dice

MACRO = "macro"
SAME_DSC = 0.999  # least mean DSC between the masks of float32 graphs and torch's, a modality
MACRO_LOSS = 0.003  # most that kinds of fewer bits may lose in macro DSC and NSD
MODALITY_LOSS = 0.007  # and in a single modality's
EXACT_KINDS = ("fp32", "onnx")


@dataclass(frozen=True)
class Check:
    """A prepared image (3,S,S) float32 with boxes (N,4) float32 on its grid and their true masks (N,S,S) bool."""

    modality: str
    image: NDArray[np.float32]
    boxes: NDArray[np.float32]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """One object, or one case: DSC between both models' masks, and each one's DSC and NSD against the truth."""

    modality: str
    same: float
    reference: tuple[float, float]
    exported: tuple[float, float]


def check_slices(reference: Backend, exported: Backend, checks: Iterable[Check]) -> list[Row]:
    """Segment prepared images with both models on the grid; one row an object."""
    rows = []
    for check in checks:
        masks = [
            [logits > 0 for logits, _ in decode_all(backend, backend.encode(check.image[None])[0], check.boxes)]
            for backend in (reference, exported)
        ]
        for truth, ours, theirs in zip(check.masks, *masks, strict=True):
            rows.append(
                Row(check.modality, dice(ours, theirs), binary_metrics(truth, ours), binary_metrics(truth, theirs))
            )
    return rows


def check_case(
    modality: str,
    gts: NDArray[Any],
    reference: NDArray[Any],
    exported: NDArray[Any],
    spacing_mm: Sequence[float] | None,
) -> Row:
    """Score both models' segs of a whole case, as `evaluate` does; `same` is over the labels of both."""
    between = case_metrics(reference, exported, spacing_mm).dsc
    ours, theirs = case_metrics(gts, reference, spacing_mm), case_metrics(gts, exported, spacing_mm)
    return Row(modality, between, (ours.dsc, ours.nsd), (theirs.dsc, theirs.nsd))


def summarize(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return, for every modality and as `macro` over modalities: n, same, and DSC and NSD of both; fractions.

    No rows give nothing.
    """
    summary: dict[str, dict[str, float]] = {}
    for modality in sorted({row.modality for row in rows}):
        own = [row for row in rows if row.modality == modality]
        values = np.array([(row.same, *row.reference, *row.exported) for row in own])
        values[:, 0] = np.nan_to_num(values[:, 0], nan=1.0)  # two empty masks are the same one
        known = [column[~np.isnan(column)] for column in values.T]
        means = [column.mean() if column.size else np.nan for column in known]  # an object in neither has no DSC
        summary[modality] = {"n": len(own), **_named(means)}
    if summary:
        means = np.mean([[row[name] for name in _NAMES] for row in summary.values()], axis=0)
        summary[MACRO] = {"n": len(rows), **_named(means)}
    return summary


_NAMES = ("same", "reference_dsc", "reference_nsd", "dsc", "nsd")


def _named(values: Iterable[Any]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(_NAMES, values, strict=True)}


def shortcomings(summary: Mapping[str, Mapping[str, float]], kind: str) -> list[str]:
    """Return in words how a bundle of this kind falls short of the gate; empty where it passes.

    Float32 graphs must give torch's masks; kinds of fewer bits must score as well, but for MACRO_LOSS and
    MODALITY_LOSS. Nothing measured is a shortcoming.
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
                found.append(
                    f"{name}: {score.upper()} is {100 * loss:.2f} points below torch's, allowed {100 * limit:.1f}"
                )
    return found


def table(summary: Mapping[str, Mapping[str, float]]) -> str:
    """Return the summary as text: modality, n, DSC between the masks, DSC / NSD of torch and of the bundle in %."""
    lines = [f"{'':14}{'n':>5}{'same':>10}{'torch':>17}{'exported':>17}"]
    for name, row in summary.items():
        pairs = [f"{100 * row[a]:.2f} / {100 * row[b]:.2f}" for a, b in (_NAMES[1:3], _NAMES[3:])]
        lines.append(f"{name:14}{row['n']:5.0f}{row['same']:10.5f}{pairs[0]:>17}{pairs[1]:>17}")
    return "\n".join(lines)
