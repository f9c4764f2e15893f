"""The report as one Markdown text with its pictures beside it: a section for each kind of input that there is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graysam.reporting.accuracy import METRICS, CaseScores
from graysam.reporting.case_files import Folders
from graysam.reporting.conclusions import kind_conclusions, variant_conclusions
from graysam.reporting.curves import curve_table, draw, read_curves
from graysam.reporting.figures import draw_calibration, draw_differences, draw_robustness, draw_sizes
from graysam.reporting.findings import MODELS, Found, markdown
from graysam.reporting.inputs import Inputs
from graysam.reporting.paired_runs import (
    kind_pairs,
    not_compared,
    pairs_by_modality_table,
    pairs_table,
    scored_modalities,
    unquantized,
    variant_pairs,
)
from graysam.reporting.paper_tables import (
    ARMS,
    INTERVALS,
    NOT_COMPARABLE,
    arms_of,
    differences_table,
    missing_arms,
    summary_table,
    table_4,
)
from graysam.reporting.probes import calibration_table, objects_line, robustness_table, size_table
from graysam.reporting.runs import MACRO, Run
from graysam.reporting.tables import EMPTY, Table, report

WORST = 10  # cases listed
POINTS = "points, 95 % bootstrap interval over subjects"

Picture = tuple[str, str, Callable[[Path], None]]  # file name, what it shows in words, what draws it


@dataclass
class Section:
    """A heading, paragraphs and tables in their order, and pictures after them."""

    title: str
    parts: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def markdown(self, folder: Path | None) -> str:
        """Return it as Markdown and draw its pictures into `folder`; None leaves them out."""
        lines = [f"## {self.title}", *self.parts]
        for name, words, paint in self.pictures if folder is not None else []:
            paint(folder / name)  # type: ignore[operator]
            lines.append(f"![{words}]({name})")
        return "\n\n".join(lines)


def accuracy_section(metrics: Sequence[CaseScores], shown: CaseScores | None = None) -> Section:
    """Return Table 4 in every metric, what each arm gains, and the worst cases of the file whose masks are shown."""
    parts = [summary_table(metrics).markdown()] if arms_of(metrics) else []
    parts += [*(table_4(metrics, metric).markdown() for metric in METRICS), NOT_COMPARABLE, INTERVALS]
    if next(iter(ARMS)) in arms_of(metrics):
        parts += [differences_table(metrics, metric).markdown() for metric in METRICS]
    return Section("Accuracy (the paper's Table 4)", [*parts, worst_table(metrics, shown).markdown()])


def worst_table(metrics: Sequence[CaseScores], of: CaseScores | None = None) -> Table:
    """Return the cases with the smallest DSC of a file, beside the others; None: the last arm's, or the last file's."""
    arms = arms_of(metrics)
    of = of or (list(arms.values())[-1] if arms else metrics[-1])
    columns = arms if of in arms.values() else {scores.name: scores for scores in metrics}
    dsc = {name: scores.dsc_by_case for name, scores in columns.items()}
    cases = {(modality, case): value for modality, group in of.scores["dsc"].items() for case, value in group.items()}
    worst = sorted(cases, key=lambda key: (cases[key], key))[:WORST]
    rows = [
        [case, modality, *(f"{100 * one[case]:.2f}" if case in one else EMPTY for one in dsc.values())]
        for modality, case in worst
    ]
    return Table(f"The {WORST} cases with the smallest DSC (%) of {of.name}", ["case", "modality", *columns], rows, 2)


def probes_section(inputs: Inputs) -> Section:
    """Return what loose boxes cost, whether the predicted IoU is right, and what small objects cost."""
    probes = inputs.probes
    titles = ", ".join(probe.title for probe in probes)
    return Section(
        "Robustness",
        [
            objects_line(probes),
            *(table(probes).markdown() for table in (robustness_table, calibration_table, size_table)),
        ],
        [
            ("robustness.png", f"DSC over how far boxes are shifted, enlarged and shrunk: {titles}",
             lambda path: draw_robustness(probes, path)),
            ("calibration.png", f"Real over predicted IoU: {titles}", lambda path: draw_calibration(probes, path)),
            ("sizes.png", f"DSC by the share of the image that objects take: {titles}",
             lambda path: draw_sizes(probes, path)),
        ],
    )  # fmt: skip


def runs_section(
    runs: Sequence[Run], *, modalities: bool, kinds: bool, reference: str | None = None, over: Sequence[str] = ()
) -> tuple[Section, list[str], list[str]]:
    """Return the tables over runs and their learning curves.

    Also a line for each run that is in no table, and for whatever else was asked and cannot be had: curves of a
    metrics.csv that cannot be read, differences from a variant that is not there.

    reference: the variant that others are compared with. over: modalities of these comparisons' macro averages, () for
    all.
    """
    made = report(runs, modalities=modalities, kinds=kinds)
    section = Section("Training runs", [made.markdown.rstrip()])
    lacking = [] if reference is None else _add_differences(section, runs, reference, modalities, over)
    costs = kind_pairs(runs) if kinds else []
    if costs:
        section.parts.append(_list(kind_conclusions(costs)))
        title = f"Differences of quantized kinds from the same weights ({POINTS})"
        section.parts.append(pairs_table(costs, title).markdown())
    return section, list(made.left_out), [*lacking, *_add_curves(section, runs)]


def _add_differences(
    section: Section, runs: Sequence[Run], reference: str, modalities: bool, over: Sequence[str]
) -> list[str]:
    """Add what variants gain over the reference; return a line where nothing can be compared with it.

    Raises ValueError for a modality that no run scored.
    """
    unknown = set(over) - scored_modalities(runs)
    if unknown:
        raise ValueError(f"--over {', '.join(sorted(unknown))}: no run scored such a modality")
    pairs = variant_pairs(runs, reference, over)
    if not pairs:
        lacking = (
            f"no differences from {reference} (--reference): no finished run of that name stored its objects' scores, "
            "or there is nothing to compare it with"
        )
        section.parts.append(_list([lacking]))
        return [lacking]
    conclusions = [f"Macro averages of these comparisons are over {', '.join(over)} alone."] if over else []
    conclusions += variant_conclusions(pairs)
    conclusions += [f"Not compared, for want of a reference or of objects: `{n}`." for n in not_compared(runs, pairs)]
    section.parts.append(_list(conclusions))
    section.parts.append(pairs_table(pairs, f"Differences from {reference}, same kind ({POINTS})").markdown())
    plain = [pair for pair in unquantized(pairs) if pair.dsc[MACRO].n]
    if not plain:
        return []
    if modalities:
        title = f"Differences of DSC from {reference} per modality, not quantized ({POINTS})"
        section.parts.append(pairs_by_modality_table(plain, title).markdown())
    words = f"Differences from {reference} with 95 % intervals: {', '.join(pair.variant for pair in plain)}"
    section.pictures.append(("differences.png", words, lambda path: draw_differences(plain, path)))
    return []


def _add_curves(section: Section, runs: Sequence[Run]) -> list[str]:
    """Add the runs' learning curves, and return a line for each that cannot be read."""
    curves, unreadable = [], []
    for run in runs:
        try:
            found = read_curves(run)
            curves += [found] if found is not None else []
        except ValueError as error:
            unreadable.append(f"no learning curve of {run.path}: {error}")
    if curves:
        section.parts += [curve_table(one).markdown() for one in curves]
        names = ", ".join(dict.fromkeys(one.run.name for one in curves))
        section.pictures.append(
            ("learning.png", f"Learning curves over the images seen: {names}", lambda path: draw(curves, path))
        )
    section.parts += [_list(unreadable)] if unreadable else []
    return unreadable


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def findings_sections(findings: Sequence[Found]) -> list[Section]:
    """Return what was found about paper and metric, and the table of the models on its own; none for none."""
    models = [one for one in findings if one.name == MODELS]
    others = [one for one in findings if one.name != MODELS]
    sections = [Section(one.title, one.parts()) for one in models]
    return sections + ([Section("Findings", [markdown(others)])] if others else [])


def missing_section(inputs: Inputs, folders: Folders) -> Section:
    """Return what the report would hold with more inputs, and the command that makes each."""
    lines = [f"{line} (`python -m graysam.evaluate -o`)" for line in missing_arms(inputs.metrics)]
    if not inputs.benchmarks:
        lines.append("no speed: no benchmark.json was given (`python -m graysam.benchmark -o`)")
    if not inputs.probes:
        lines.append("no robustness: no probe was given (`python -m graysam.probe -o`)")
    if not any(one.name != MODELS for one in inputs.findings):
        lines.append("no findings: no file was given (`python -m graysam.reproduction.findings -o findings.json`)")
    if not any(one.name == MODELS for one in inputs.findings):
        lines.append("no parameters, operations and sizes (`python -m graysam.reproduction.findings -o findings.json`)")
    if folders.cases is None:
        lines.append("no channels (Figure 2): give case files (`python -m graysam.report --cases IMGS`)")
    if not folders.complete:
        what = "no successes and failures (Figure 3, pictures of the worst cases)"
        lines.append(f"{what}: also give `{' '.join(folders.absent)}`; masks come from `python -m graysam.predict`")
    if not inputs.runs:
        lines.append("no training: no run directory was given (`python -m graysam.train`)")
    return Section("What is missing", [_list(lines) if lines else "Nothing."])


def document(sections: Sequence[Section], folder: Path | None) -> str:
    """Return the whole report as Markdown; pictures are drawn into `folder`, None leaves them out."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    intro = "# graysam: measured results\n\nMade by `python -m graysam.report`; the same inputs give the same text."
    return "\n\n".join([intro, *(section.markdown(folder) for section in sections)]) + "\n"
