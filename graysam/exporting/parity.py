"""Compare an exported model with the torch model it was made of: masks against masks, and both against the truth."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from graysam.data.dataset import Item
from graysam.imaging.channels import Scheme
from graysam.inference.backend import Backend, decode_all
from graysam.inference.volume import segment
from graysam.io.cases import read_gts, read_input_case
from graysam.metrics.aggregation import MACRO, macro_average, modality_means
from graysam.metrics.challenge import binary_metrics, case_metrics, dice
from graysam.system.terminal import progress

SAME_DSC = 0.999  # least mean DSC between the masks of float32 graphs and torch's, in each modality
MACRO_LOSS = 0.003  # most that lower precisions may lose in macro DSC and NSD
MODALITY_LOSS = 0.007  # and in those of a single modality
# Scores of one object or case: DSC between both models' masks, DSC and NSD of torch's and of the exported model's.
COLUMNS = ("same", "reference_dsc", "reference_nsd", "dsc", "nsd")

Row = tuple[str, tuple[float, ...]]  # modality, scores by COLUMNS
Summary = Mapping[str, Mapping[str, float]]


def compare_slices(reference: Backend, exported: Backend, items: Iterable[Item]) -> list[Row]:
    """Segment prepared images with both models on the grid; one row per object."""
    rows: list[Row] = []
    for item in items:
        image, boxes = item.image.numpy()[None], item.boxes.numpy()
        ours, theirs = (
            [logits > 0 for logits, _ in decode_all(backend, backend.encode(image)[0], boxes)]
            for backend in (reference, exported)
        )
        for truth, one, other in zip(item.masks.numpy(), ours, theirs, strict=True):
            rows.append((item.modality, (dice(one, other), *binary_metrics(truth, one), *binary_metrics(truth, other))))
    return rows


def compare_cases(
    reference: Backend, exported: Backend, cases: Path, gts: Path, *, scheme: Scheme, size: int
) -> list[Row]:
    """Segment the case files of a folder with both models and score them as `evaluate` does; one row per case.

    Args:
        reference, exported: two models of one channel scheme and input size.
        cases, gts: folders of case files and of their ground truths, same names.
        scheme, size: channels, and side of the square input in pixels.

    Raises:
        ValueError: no case files.
    """
    paths = sorted(cases.glob("*.npz"))
    if not paths:
        raise ValueError(f"{cases} holds no .npz file; give a folder of case files")
    rows: list[Row] = []
    for path in progress(paths, "comparing with torch"):
        case = read_input_case(path)
        truth, spacing_mm = read_gts(gts / path.name)
        boxes = np.empty((0, 4)) if case.boxes is None else case.boxes
        ours, theirs = (segment(case.image.pixels, boxes, model, scheme, size=size) for model in (reference, exported))
        pairs = ((ours, theirs), (truth, ours), (truth, theirs))
        same, one, other = (case_metrics(first, second, spacing_mm) for first, second in pairs)
        rows.append((case.image.modality, (same.dsc, one.dsc, one.nsd, other.dsc, other.nsd)))
    return rows


def summarize(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Average the rows of each modality, and over modalities.

    Returns:
        For each modality and for `macro`, fractions by COLUMNS and the number of rows `n`; nothing without rows. Two
        empty masks are the same; an object that is in neither the truth nor the mask has no DSC and does not count.
    """
    if not rows:
        return {}
    scores = [(modality, (1.0 if np.isnan(same) else same, *others)) for modality, (same, *others) in rows]
    means = {**modality_means(scores), MACRO: macro_average(scores)}
    counts = {name: sum(modality == name for modality, _ in rows) for name in means} | {MACRO: len(rows)}
    return {name: {"n": counts[name], **dict(zip(COLUMNS, row.tolist(), strict=True))} for name, row in means.items()}


def shortcomings(summary: Summary, precision: str) -> list[str]:
    """List how an exported model falls short of the gate; empty where it passes.

    Float32 graphs must give torch's masks; lower precisions must score as well, but for MACRO_LOSS and MODALITY_LOSS.
    Without any measurement, or with a NaN, the gate is not passed.
    """
    found = [] if summary else ["nothing was compared"]
    for name, row in summary.items():
        if precision == "fp32":
            if not row["same"] >= SAME_DSC:
                found.append(f"{name}: DSC {row['same']:.5f} between its masks and torch's, required {SAME_DSC}")
            continue
        limit = MACRO_LOSS if name == MACRO else MODALITY_LOSS
        for score in ("dsc", "nsd"):
            loss = row[f"reference_{score}"] - row[score]
            if not loss <= limit:
                lost = f"{100 * loss:.2f} points below torch's, allowed {100 * limit:.1f}"
                found.append(f"{name}: {score.upper()} is {lost}")
    return found


def table(summary: Summary) -> str:
    """Format the summary: modality, n, DSC between the masks, DSC / NSD of torch and of the exported model in %."""
    lines = [f"{'':14}{'n':>5}{'same':>10}{'torch':>17}{'exported':>17}"]
    for name, row in summary.items():
        pairs = [f"{100 * row[dsc]:.2f} / {100 * row[nsd]:.2f}" for dsc, nsd in (COLUMNS[1:3], COLUMNS[3:])]
        lines.append(f"{name:14}{row['n']:5.0f}{row['same']:10.5f}{pairs[0]:>17}{pairs[1]:>17}")
    return "\n".join(lines)
