"""Compose the report: `templates/report.md.j2` has its text and asks this room for tables and pictures."""

import base64
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markdown import Markdown

from graysam.reporting import accuracy, paired_runs, pictures, probes, speed
from graysam.reporting.inputs import Inputs
from graysam.reporting.run_tables import run_tables
from graysam.reporting.runs import by_variant, read_curves, usable
from graysam.reporting.tables import render
from graysam.system.files import replacing


def compose(
    inputs: Inputs, folders: pictures.Folders, output: Path | None, options: Namespace
) -> tuple[str, list[str], list[str]]:
    """Compose the report of all inputs; the same inputs give the same text and pictures.

    Args:
        inputs: of `collect`.
        folders: case files, whose pictures are drawn.
        output: folder that pictures are written to; None for no pictures and no learning curves.
        options: `reference`, `over`, `modalities` and `methods` of `graysam report`.

    Returns:
        The Markdown text; lines for the runs that are in no table, and for whatever else could not be shown.
    """

    def draw(file: str, words: str, function: Callable[..., object], *data: Any) -> str:
        if output is None:
            return ""
        output.mkdir(parents=True, exist_ok=True)
        function(*data, output / file)
        return f"![{words}]({file})"

    extremes, worst, left_out = pictures.shown_cases(folders) if not folders.absent else ([], [], [])
    views, unusable = pictures.grey_views(folders)
    problems = list(dict.fromkeys([*left_out, *unusable]))
    finished, excluded = usable(inputs.runs)
    scores = paired_runs.object_scores(finished)
    if unknown := sorted(set(options.over) - {m for frame in scores.values() for m in frame["modality"]}):
        raise ValueError(f"--over {', '.join(unknown)}: no run scored such a modality")
    pairs = []
    if options.reference is not None:
        pairs = paired_runs.variant_pairs(finished, scores, options.reference, options.over)
        if not pairs:
            problems.append(
                f"no differences from {options.reference} (--reference): no finished run of that name stored its "
                "objects' scores, or there is no run to compare with it"
            )
    variants = paired_runs.unquantized(pairs)
    compared = {name for pair in pairs if pair.macro["dsc"].n for name in (pair.variant, pair.reference)}
    curves = []
    for run in inputs.runs if output is not None else []:
        try:
            curves.append((run, read_curves(run)))
        except ValueError as error:
            problems.append(f"no learning curve of {run.path}: {error}")
    text = render(
        "report.md.j2", inputs=inputs, folders=folders, options=options, draw=draw, problems=problems,
        extremes=extremes, worst=worst, left_out=left_out, views=views, unusable=unusable,
        tables=run_tables(inputs.runs, modalities=options.modalities, methods=options.methods),
        pairs=pairs, variants=variants, plain=[pair for pair in variants if pair.macro["dsc"].n],
        not_compared=[name for name in by_variant(finished) if name not in compared],
        costs=paired_runs.method_pairs(scores) if options.methods else [],
        curves=[(run, one) for run, one in curves if not one.empty],
        accuracy=accuracy, pictures=pictures, paired=paired_runs, probes=probes, speed=speed,
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n", excluded, problems


def write_report(markdown: str, output: Path) -> None:
    """Write a report to a file `.md`, or as report.md and report.html, a page with its pictures, to their folder."""
    files = {output: markdown}
    if output.suffix != ".md":

        def embed(match: re.Match[str]) -> str:
            data = base64.b64encode((output / match[2]).read_bytes()).decode("ascii")
            return f'<img alt="{match[1]}" src="data:image/png;base64,{data}" loading="lazy">'

        converter = Markdown(extensions=["tables", "toc", "sane_lists"], output_format="html")
        body = re.sub(r'<img alt="([^"]*)" src="([^"]*)">', embed, converter.convert(markdown))
        scrolling = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'  # keyboards reach it
        body = re.sub(r"<table>.*?</table>", rf"{scrolling}\g<0></div>", body, flags=re.S)
        page = render("page.html.j2", contents=converter.toc, body=body)  # type: ignore[attr-defined]
        files = {output / "report.md": markdown, output / "report.html": page}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
