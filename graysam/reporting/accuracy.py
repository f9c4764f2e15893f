"""Accuracy over cases: the metrics files of `graysam evaluate`, and the paper's Table 4."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from graysam.metrics.aggregation import MACRO, Estimate, estimates
from graysam.reporting.evaluation import COLUMNS, read_metrics
from graysam.reporting.tables import EMPTY, Table

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
WORST = 10  # cases listed
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
        frame: one row a case with the columns `case`, `modality` and METRICS, scores in [0, 1]; NaN for none.
    """

    name: str
    frame: pd.DataFrame

    @cached_property
    def dsc(self) -> dict[str, float]:
        """Return the DSC of every case that has one."""
        return dict(self.frame.dropna(subset="dsc").set_index("case")["dsc"])

    def estimates(self, metric: str) -> Estimates:
        """Return a metric's estimate of each modality, in the paper's order, and of their macro average."""
        groups = {m: self.frame[self.frame["modality"] == m] for m in in_papers_order(set(self.frame["modality"]))}
        return estimates({m: group[metric].dropna().tolist() for m, group in groups.items()})

    def minus(self, other: "CaseScores") -> "CaseScores":
        """Subtract the other's scores case by case; cases of the other without a partner have NaN."""
        both = other.frame.merge(self.frame, on=["case", "modality"], how="left", suffixes=("_other", ""))
        differences = {metric: both[metric] - both[f"{metric}_other"] for metric in METRICS}
        return CaseScores(self.name, both[["case", "modality"]].assign(**differences))


def read_case_scores(path: Path) -> CaseScores:
    """Read a file that `graysam evaluate -o` wrote; its stem names it. Raises ValueError for another or damaged one."""
    rows = [(one.case, one.modality, *(one.metrics or ())) for one in read_metrics(path)]
    return CaseScores(path.stem, pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(METRICS, float)))


def arms_of(found: Iterable[CaseScores]) -> dict[str, CaseScores]:
    """Return the metrics files that fill an arm, in the order of ARMS."""
    by_name = {scores.name: scores for scores in found}
    return {arm: by_name[name] for arm, name in ARMS.items() if name in by_name}


def _rows(columns: Sequence[Estimates], format_cell: Callable[[Estimate], str]) -> list[list[str]]:
    """Return one row a modality: name, largest number of cases, and cells; one with fewer cases says how many."""
    rows = []
    for name in [*in_papers_order({m for column in columns for m in column} - {MACRO}), MACRO]:
        found = [column.get(name, _NOTHING) for column in columns]
        most = max((one.n for one in found), default=0)
        cells = [format_cell(one) + ("" if one.n in (0, most) else f", n = {one.n}") for one in found]
        rows.append([name, str(most), *cells])
    return rows


def summary_table(found: Iterable[CaseScores]) -> Table:
    """Return mean DSC and official NSD of every arm without intervals, short enough for a README."""
    arms = arms_of(found)
    dsc, nsd = (
        _rows([s.estimates(m) for s in arms.values()], lambda one: f"{100 * one.mean:.2f}" if one.n else EMPTY)
        for m in ("dsc", "nsd")
    )
    rows = [[*d[:2], *(f"{a} / {b}" for a, b in zip(d[2:], n[2:], strict=True))] for d, n in zip(dsc, nsd, strict=True)]
    titles = [f"{arm} (`{ARMS[arm]}`)" for arm in arms]
    return Table("DSC / official NSD (%), mean over cases, then over modalities", ["modality", "cases", *titles], rows)


def table_4(found: Sequence[CaseScores], metric: str) -> Table:
    """Return one metric of Table 4: means with 95 % intervals over cases, then the paper's figures.

    Args:
        found: metrics files; one that fills no arm gets a column of its own after the arms.
        metric: of METRICS.
    """
    others = {scores.name: scores for scores in found if scores.name not in ARMS.values()}
    columns = {**arms_of(found), **others}
    rows = _rows([scores.estimates(metric) for scores in columns.values()], Estimate.percent)
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
    columns = [scores.minus(baseline).estimates(metric) for scores in arms.values()]
    names = list(baseline.estimates(metric))
    rows = [[name, *(column.get(name, _NOTHING).percent(sign=True) for column in columns)] for name in names]
    of = f"Differences of {METRICS[metric]} from the baseline"
    return Table(f"{of}, paired by case (points, 95 % bootstrap interval)", ["modality", *arms], rows)


def worst_table(found: Sequence[CaseScores], name: str | None = None) -> Table:
    """Return the cases with the smallest DSC of one metrics file, beside their DSC in the others.

    Args:
        found: metrics files, at least one.
        name: of the file; where there is none of that name, the last arm's, or the last without arms.
    """
    arms = arms_of(found)
    of = next((scores for scores in found if scores.name == name), [*found, *arms.values()][-1])
    columns = arms if of in arms.values() else {scores.name: scores for scores in found}
    worst = of.frame.dropna(subset="dsc").sort_values(["dsc", "modality", "case"]).head(WORST)
    rows = [
        [case, modality, *(f"{100 * one.dsc[case]:.2f}" if case in one.dsc else EMPTY for one in columns.values())]
        for case, modality in zip(worst["case"], worst["modality"], strict=True)
    ]
    return Table(f"The {WORST} cases with the smallest DSC (%) of {of.name}", ["case", "modality", *columns], rows, 2)
