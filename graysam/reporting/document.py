"""Compose the report: `templates/report.md.j2` has its text and asks this room for tables and pictures."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from graysam.reporting import accuracy, case_figures, cases, figures, paired_runs, probes
from graysam.reporting.inputs import Inputs
from graysam.reporting.run_tables import run_tables
from graysam.reporting.runs import read_curves
from graysam.reporting.speed_charts import speed_section

TEMPLATES = Environment(
    loader=PackageLoader("graysam.reporting"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


class Options(NamedTuple):
    """What is shown of the runs.

    Attributes:
        modalities: whether scores per modality are shown.
        methods: whether quantization methods are shown.
        reference: variant that others are compared with, None for no comparison.
        over: modalities of the macro averages of comparisons; empty for all.
    """

    modalities: bool = False
    methods: bool = False
    reference: str | None = None
    over: Sequence[str] = ()


@dataclass
class Report:
    """The Markdown text; lines for the runs that are in no table, and for whatever else could not be shown."""

    text: str
    excluded: Sequence[str]
    problems: Sequence[str]


def compose(
    inputs: Inputs,
    folders: cases.Folders,
    output: Path | None,
    options: Options,
) -> Report:
    """Compose the report of all inputs; the same inputs give the same text and pictures.

    Args:
        inputs: of `collect`.
        folders: case files, whose pictures are drawn.
        output: folder that pictures are written to; None for no pictures and no learning curves.
        options: for the runs.

    Raises:
        ValueError: a damaged benchmark, or `options.over` names a modality that no run scored.
    """

    def draw(file: str, words: str, function: Callable[..., object], *data: Any) -> str:
        if output is None:
            return ""
        output.mkdir(parents=True, exist_ok=True)
        function(*data, output / file)
        return f"![{words}]({file})"

    shown = cases.shown_cases(folders) if not folders.absent else cases.ShownCases([], [], [])
    views, unusable = cases.grey_views(folders)
    problems = list(dict.fromkeys([*shown.left_out, *unusable]))
    pairs = _pairs(inputs, options)
    if options.reference is not None and not pairs:
        problems.append(
            f"no differences from {options.reference} (--reference): no finished run of that name stored its objects' "
            "scores, or there is no run to compare with it"
        )
    curves = []
    for run in inputs.runs if output is not None else []:
        try:
            curves.append((run, read_curves(run)))
        except ValueError as error:
            problems.append(f"no learning curve of {run.path}: {error}")
    tables, excluded = run_tables(inputs.runs, modalities=options.modalities, methods=options.methods)
    text = TEMPLATES.get_template("report.md.j2").render(
        inputs=inputs, folders=folders, options=options, draw=draw, problems=problems,
        speed=[speed_section(content, number) for number, content in enumerate(inputs.benchmarks, start=1)],
        shown=shown, views=views, unusable=unusable, tables=tables,
        pairs=pairs, plain=[pair for pair in paired_runs.unquantized(pairs) if pair.dsc["macro"].n],
        costs=paired_runs.method_pairs(inputs.runs) if options.methods else [],
        curves=[(run, one) for run, one in curves if not one.empty],
        accuracy=accuracy, case_figures=case_figures, figures=figures, paired=paired_runs, probes=probes,
    )  # fmt: skip
    return Report(re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n", excluded, problems)


def _pairs(inputs: Inputs, options: Options) -> list[paired_runs.Pair]:
    if options.reference is None:
        return []
    scored = {m for frame in paired_runs.object_scores(inputs.runs).values() for m in frame["modality"]}
    if unknown := sorted(set(options.over) - scored):
        raise ValueError(f"--over {', '.join(unknown)}: no run scored such a modality")
    return paired_runs.variant_pairs(inputs.runs, options.reference, options.over)
