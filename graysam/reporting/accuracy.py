"""Accuracy over cases: the metrics files of `graysam evaluate`, and the paper's Table 4."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from graysam.metrics.aggregation import MACRO, Estimate, estimates
from graysam.reporting.evaluation import COLUMNS, read_metrics
from graysam.reporting.tables import EMPTY, Table, percent

METRICS = {"dsc": "DSC", "nsd": "official NSD", "nsd_contour": "contour NSD"}  # column -> title
# Arm of Table 4 -> name of the metrics file that fills it.
ARMS: Mapping[str, str] = {
    "baseline": "lite_medsam_fp32",
    "quantized baseline": "lite_medsam_int8",
    "proposed": "graysam_l0_fp32",
    "quantized proposed": "graysam_l0_int8",
}
BASELINE = next(iter(ARMS))
PAPER = Path(__file__).with_name("paper_table4.csv")  # Table 4 of the paper in per cent; it has no contour NSD
_ORDER = ("CT", "MR", "PET", "US", "XRay", "X-Ray", "Dermoscopy", "Endoscopy", "Fundus", "Microscopy")  # the paper's
_NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)
Estimates = Mapping[str, Estimate]  # modality or `macro`


def in_papers_order(modalities: Iterable[str]) -> list[str]:
    """Return modalities in the paper's order, others by name after them."""
    return sorted(modalities, key=lambda m: (_ORDER.index(m) if m in _ORDER else len(_ORDER), m))


@dataclass(frozen=True, eq=False)
class CaseScores:
    """Scores of one set of masks as `graysam evaluate` wrote them.

    Attributes:
        name: stem of the file.
        frame: METRICS in [0, 1], NaN for none, indexed by `modality` and `case`.
    """

    name: str
    frame: pd.DataFrame

    def estimates(self, metric: str) -> Estimates:
        """Return a metric's estimate of each modality, in the paper's order, and of their macro average."""
        groups = self.frame[metric].groupby("modality")
        return estimates({m: groups.get_group(m).dropna().tolist() for m in in_papers_order(map(str, groups.groups))})

    def minus(self, other: "CaseScores") -> "CaseScores":
        """Subtract the other's scores case by case; cases of the other without a partner have NaN."""
        return CaseScores(self.name, self.frame.reindex(other.frame.index) - other.frame)


def read_case_scores(path: Path) -> CaseScores:
    """Read a file that `graysam evaluate -o` wrote; its stem names it. Raises ValueError for another or damaged one."""
    rows = [(one.case, one.modality, *(one.metrics or ())) for one in read_metrics(path)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(METRICS, float))
    return CaseScores(path.stem, frame.set_index(["modality", "case"]))


def arms_of(found: Iterable[CaseScores]) -> dict[str, CaseScores]:
    """Return the metrics files that fill an arm, in the order of ARMS."""
    by_name = {scores.name: scores for scores in found}
    return {arm: by_name[name] for arm, name in ARMS.items() if name in by_name}


def _rows(columns: Sequence[Sequence[Estimates]], format_cell: Callable[[Estimate], str]) -> list[list[str]]:
    """Return one row a modality: name, largest number of cases, and cells; a value of fewer cases says how many."""
    rows = []
    for name in [*in_papers_order({m for column in columns for one in column for m in one} - {MACRO}), MACRO]:
        cells = [[one.get(name, _NOTHING) for one in column] for column in columns]
        most = max(value.n for cell in cells for value in cell)
        texts = [
            [format_cell(value) + ("" if value.n in (0, most) else f", n = {value.n}") for value in cell]
            for cell in cells
        ]
        rows.append([name, str(most), *(" / ".join(text) for text in texts)])
    return rows


def summary_table(found: Iterable[CaseScores]) -> Table:
    """Return mean DSC and official NSD of every arm without intervals, short enough for a README."""
    arms = arms_of(found)
    columns = [[scores.estimates("dsc"), scores.estimates("nsd")] for scores in arms.values()]
    rows = _rows(columns, lambda one: percent(one.mean))
    titles = [f"{arm} (`{ARMS[arm]}`)" for arm in arms]
    return Table("DSC / official NSD (%), mean over cases, then over modalities", ["modality", "cases", *titles], rows)


def table_4(found: Sequence[CaseScores], metric: str) -> Table:
    """Return one metric of Table 4: the arms, other metrics files, the paper's figures."""
    others = {scores.name: scores for scores in found if scores.name not in ARMS.values()}
    columns = {**arms_of(found), **others}
    rows = _rows([[scores.estimates(metric)] for scores in columns.values()], Estimate.percent)
    paper = pd.read_csv(PAPER, dtype=str).set_index(["metric", "modality"])
    titles = [f"paper: {arm}" for arm in ARMS] if metric in paper.index else []
    if titles:
        rows = [row + list(paper.loc[metric].reindex([row[0]], fill_value=EMPTY).iloc[0]) for row in rows]
    title = f"Table 4, {METRICS[metric]} (%): mean over cases, 95 % bootstrap interval"
    return Table(title, ["modality", "n", *columns, *titles], rows)


def differences_table(found: Iterable[CaseScores], metric: str) -> Table:
    """Return the differences of the other arms from the baseline, which must be there, in percentage points."""
    arms = arms_of(found)
    baseline = arms.pop(BASELINE)
    columns = [[scores.minus(baseline).estimates(metric)] for scores in arms.values()]
    title = f"Differences of {METRICS[metric]} from the baseline, paired by case (points, 95 % bootstrap interval)"
    return Table(title, ["modality", "n", *arms], _rows(columns, lambda one: one.percent(sign=True)))
