"""The paper's Table 4 over our cases: every modality and metric for baseline and proposed, quantized and not."""

from collections.abc import Mapping, Sequence

from graysam.reporting.accuracy import CaseScores, Estimate, estimates, in_papers_order, paired_differences
from graysam.reporting.runs import MACRO
from graysam.reporting.tables import EMPTY, Table

# Arm -> the metrics file's name that fills it.
ARMS: Mapping[str, str] = {
    "baseline": "lite_medsam_fp32",
    "quantized baseline": "lite_medsam_int8",
    "proposed": "graysam_l0_fp32",
    "quantized proposed": "graysam_l0_int8",
}
METRIC_TITLES = {"dsc": "DSC", "nsd": "official NSD", "nsd_contour": "contour NSD"}
# Per cent, by the arms' order: Table 4 of the paper, which has no contour NSD.
PAPER: Mapping[str, Mapping[str, Sequence[float]]] = {
    "dsc": {
        "CT": (72.47, 72.71, 84.46, 84.80),
        "MR": (76.40, 77.12, 80.92, 82.69),
        "PET": (70.56, 70.91, 79.22, 79.15),
        "US": (94.80, 95.10, 94.91, 95.01),
        "X-Ray": (96.04, 95.82, 95.21, 95.17),
        "Dermoscopy": (94.23, 94.41, 94.60, 94.62),
        "Endoscopy": (91.47, 91.45, 91.38, 91.40),
        "Fundus": (92.68, 92.93, 89.93, 90.15),
        "Microscopy": (65.80, 66.10, 83.24, 83.86),
        MACRO: (83.83, 84.06, 88.20, 88.54),
    },
    "nsd": {
        "CT": (88.49, 89.15, 97.74, 98.05),
        "MR": (93.02, 93.22, 95.86, 97.22),
        "PET": (95.71, 95.93, 98.61, 98.56),
        "US": (98.41, 98.93, 98.38, 98.42),
        "X-Ray": (99.30, 99.12, 98.67, 98.66),
        "Dermoscopy": (98.09, 98.09, 98.12, 98.14),
        "Endoscopy": (98.46, 98.34, 98.60, 98.57),
        "Fundus": (98.90, 98.30, 98.60, 98.73),
        "Microscopy": (86.43, 86.83, 97.90, 98.23),
        MACRO: (95.20, 95.32, 98.05, 98.28),
    },
}
NOT_COMPARABLE = (
    "The paper's figures stand beside ours for orientation and cannot be compared with them: it scored other cases, "
    "the challenge's validation set, whose masks were never published; its L0 began with the published weights of "
    "EfficientViT-SAM and MedSAM and was trained on the challenge's whole training set; its quantization is torch's "
    "dynamic one, ours is static int8 in OpenVINO. Its averages are over nine modalities."
)
INTERVALS = (
    "Intervals are drawn over cases within each modality, as if they were unrelated, which a patient's CT, MR and PET "
    "are not. Of few cases they are too narrow: of three, an interval is their range, which holds the mean of all such "
    "cases three times in four, not 19 in 20."
)


def arms_of(found: Sequence[CaseScores]) -> dict[str, CaseScores]:
    """Return the metrics files that fill an arm, in the arms' order."""
    by_name = {scores.name: scores for scores in found}
    return {arm: by_name[name] for arm, name in ARMS.items() if name in by_name}


def summary_table(found: Sequence[CaseScores]) -> Table:
    """Return DSC / official NSD of every arm there is, means without intervals: what a README has room for.

    Cases are those of the column that has most; a cell with fewer says how many. Without arms there is one row, of a
    macro average over nothing.
    """
    arms = arms_of(found)
    columns = {arm: (estimates(scores, "dsc"), estimates(scores, "nsd")) for arm, scores in arms.items()}
    names = in_papers_order({m for scores in arms.values() for m in scores.modalities})
    rows = []
    for name in [*names, MACRO]:
        pairs = [[metric.get(name, NOTHING) for metric in column] for column in columns.values()]
        n = max((one.n for pair in pairs for one in pair), default=0)
        cells = [" / ".join(EMPTY if one.n == 0 else f"{100 * one.mean:.2f}" for one in pair) for pair in pairs]
        fewest = [min(one.n for one in pair) for pair in pairs]
        cells = [cell if few in (0, n) else f"{cell}, n = {few}" for cell, few in zip(cells, fewest, strict=True)]
        rows.append([name, str(n), *cells])
    titles = [f"{arm} (`{ARMS[arm]}`)" for arm in arms]
    return Table("DSC / official NSD (%), mean over cases, then over modalities", ["modality", "cases", *titles], rows)


def table_4(found: Sequence[CaseScores], metric: str) -> Table:
    """Return one metric of Table 4: our means with 95 % intervals over cases, the paper's figures after them.

    found: metrics files; those that are in none of `ARMS` get a column of their own after the arms. n is the number of
    cases in the column that has most; a cell with fewer says how many.
    """
    arms = arms_of(found)
    others = {scores.name: scores for scores in found if scores.name not in ARMS.values()}
    columns = {name: estimates(scores, metric) for name, scores in {**arms, **others}.items()}
    names = in_papers_order({m for scores in found for m in scores.modalities})
    paper = PAPER.get(metric, {})
    rows = []
    for name in [*names, MACRO]:
        theirs = [f"{value:.2f}" for value in paper[name]] if name in paper else [EMPTY] * len(ARMS) if paper else []
        ours = [column.get(name, NOTHING) for column in columns.values()]
        n = max((one.n for one in ours), default=0)
        cells = [one.percent() if one.n in (0, n) else f"{one.percent()}, n = {one.n}" for one in ours]
        rows.append([name, str(n), *cells, *theirs])
    titles = [f"paper: {arm}" for arm in ARMS] if paper else []
    title = f"Table 4, {METRIC_TITLES[metric]} (%): mean over cases, 95 % bootstrap interval"
    return Table(title, ["modality", "n", *columns, *titles], rows)


def differences_table(found: Sequence[CaseScores], metric: str) -> Table:
    """Return what each other arm gains over the baseline, case by case, in percentage points."""
    arms = arms_of(found)
    baseline = arms.pop(next(iter(ARMS)), None)
    title = (
        f"Differences of {METRIC_TITLES[metric]} from the baseline, paired by case (points, 95 % bootstrap interval)"
    )
    if baseline is None:
        return Table(title, ["modality"], [])
    columns = {arm: paired_differences(baseline, scores, metric) for arm, scores in arms.items()}
    rows = [
        [name, *(column.get(name, NOTHING).percent(sign=True) for column in columns.values())]
        for name in [*baseline.modalities, MACRO]
    ]
    return Table(title, ["modality", *columns], rows)


def missing_arms(found: Sequence[CaseScores]) -> list[str]:
    """Return a line for each arm that no metrics file fills."""
    return [f"no {arm}: no metrics file {ARMS[arm]}.csv was given" for arm in ARMS if arm not in arms_of(found)]


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)
