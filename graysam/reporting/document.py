"""Make the report: find its inputs, fill in `templates/report.md.j2` with tables and pictures, write it."""

import base64
import csv
import json
import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown import Markdown

from graysam.reporting import accuracy, paired_runs, pictures, probes, speed
from graysam.reporting.accuracy import COLUMNS, CaseScores, read_case_scores
from graysam.reporting.probes import Probe, read_probe
from graysam.reporting.reproducibility import CheckResult, read_checks
from graysam.reporting.runs import Run, by_variant, natural_key, read_curves, read_run, run_tables, usable
from graysam.reporting.schemas import CONFIG, SUMMARY, BenchmarkReport, parsing, read_benchmark
from graysam.reporting.tables import render
from graysam.system.files import is_stream, replacing
from graysam.system.outputs import check_output_file

Kind = tuple[str, Callable[[Path], Any]]  # attribute of Inputs, and how a file of this kind is read
# Keys of a JSON file -> its kind.
JSON_KINDS: Sequence[tuple[set[str], Kind]] = (
    ({"name", "changes", "objects"}, ("probes", read_probe)),
    ({"format", "checks"}, ("checks", read_checks)),
    ({"machine", "cases", "results"}, ("benchmarks", read_benchmark)),
)


@dataclass
class Inputs:
    """Everything that was found, each list in natural order."""

    runs: list[Run] = field(default_factory=list)
    metrics: list[CaseScores] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    benchmarks: list[BenchmarkReport] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)


def collect(paths: Iterable[Path]) -> Inputs:
    """Read what files and folders hold; a run directory counts as one input and is not searched itself.

    Args:
        paths: files, which must be inputs, and folders, in which other files are ignored.

    Raises:
        ValueError: a path that does not exist, a folder without inputs, a file that is something else or damaged, two
            metrics files, probes or checks of one name.
    """
    found: dict[Path, tuple[Path, Kind]] = {}  # by resolved path
    for path in paths:
        with parsing(f"{path} (required: run directories, metrics files, probes, benchmarks, reproducibility checks)"):
            inputs = [(item.resolve(), (item, kind)) for item, kind in _search(path) if kind is not None]
            if not inputs:
                raise ValueError("it holds no input" if path.is_dir() else "it is none of these")
        found = dict(inputs) | found
    collected = Inputs()
    for path, (name, read) in sorted(found.values(), key=lambda one: natural_key(one[0].as_posix())):
        content = read(path)
        getattr(collected, name).extend(content if name == "checks" else [content])
    for what in ("metrics", "probes", "checks"):
        names = [one.name for one in getattr(collected, what)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two {what} are named {', '.join(twice)}; required: different names")
    collected.metrics.sort(key=lambda scores: natural_key(scores.name))
    collected.probes.sort(key=lambda probe: natural_key(probe.name))
    return collected


def _search(path: Path) -> Iterator[tuple[Path, Kind | None]]:
    """Yield a file, or the run directories below a folder and the CSV and JSON files outside of them, with kinds."""
    if not path.is_dir():
        yield path, _classify(path)
    for place, inside, names in os.walk(path):
        if CONFIG in names or SUMMARY in names:
            inside.clear()
            yield Path(place), ("runs", read_run)
            continue
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        for name in sorted(names):
            if name.endswith((".csv", ".json")):
                yield Path(place, name), _classify(Path(place, name))


def _classify(file: Path) -> Kind | None:
    """Return the kind of an input by the file's content; None for something else."""
    try:
        if file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8") as stream:
                return ("metrics", read_case_scores) if next(csv.reader(stream), []) == list(COLUMNS) else None
        keys = json.loads(file.read_text(encoding="utf-8")).keys()
    except (ValueError, AttributeError, csv.Error):
        return None
    return next((kind for wanted, kind in JSON_KINDS if keys >= wanted), None)


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

    extremes, worst, left_out = pictures.shown_cases(folders)
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


def report_folder(output: Path | None, *, overwrite: bool = False) -> Path | None:
    """Return the folder that a report is written to, or None where it is a file `.md`, a stream, or nothing.

    Raises:
        ValueError: the output cannot be written, or is not a report.
    """
    if output is None:
        return None
    folder = None if output.suffix == ".md" or is_stream(output) else output
    if folder is not None and folder.is_file():
        raise ValueError(f"-o {output} is a file; required: a folder, or the name of a file such as report.md")
    files = [output] if folder is None else [folder / "report.md", folder / "report.html", *folder.glob("*.png")]
    for file in files:
        check_output_file(file, "Made by `python -m graysam.report`", marked=files[0], overwrite=overwrite)
    return folder


def write_report(markdown: str, output: Path, folder: Path | None) -> None:
    """Write a report to the file `output`, or as report.md and report.html, a page with its pictures, to a folder.

    `folder` is what `report_folder` returns for the output.
    """
    files = {output: markdown}
    if folder is not None:

        def embed(match: re.Match[str]) -> str:
            data = base64.b64encode((folder / match[2]).read_bytes()).decode("ascii")
            return f'<img alt="{match[1]}" src="data:image/png;base64,{data}" loading="lazy">'

        converter = Markdown(extensions=["tables", "toc", "sane_lists"], output_format="html")
        body = re.sub(r'<img alt="([^"]*)" src="([^"]*)">', embed, converter.convert(markdown))
        scrolling = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'  # keyboards reach it
        body = re.sub(r"<table>.*?</table>", rf"{scrolling}\g<0></div>", body, flags=re.S)
        page = render("page.html.j2", contents=converter.toc, body=body)  # type: ignore[attr-defined]
        files = {folder / "report.md": markdown, folder / "report.html": page}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
