"""`python -m graysam.report RUNS...`: run directories, metrics files, probes, benchmarks, findings become a report.

`--cases IMGS` adds the channels of grey images, and with `--gts GTS --segs SEGS` the best and worst cases' pictures.
Without `-o` the tables are printed; `-o FILE.md` also writes them. `-o FOLDER` writes the whole report: `report.md`
with its pictures, and `report.html`, one file that opens anywhere.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graysam.reporting.case_files import Folders
from graysam.reporting.case_sections import cases_section, channels_section, scores_of
from graysam.reporting.document import (
    Section,
    accuracy_section,
    document,
    findings_sections,
    missing_section,
    probes_section,
    runs_section,
)
from graysam.reporting.inputs import REQUIRED, Inputs, collect
from graysam.reporting.runs import read_run
from graysam.reporting.speed_charts import speed_section
from graysam.reporting.tables import report
from graysam.system.extras import require
from graysam.system.files import replacing
from graysam.system.terminal import BAD_INPUT, FAILED, one_line, parse_list

NAME = "report"  # of the files in the report's folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, 1 when what was asked for is missing, 2 for arguments that cannot be used."""
    arguments = _parser().parse_args(argv)
    output: Path | None = arguments.output
    folder = None if output is None or output.suffix == ".md" else output
    if folder is not None:
        require("report")
    try:
        if output is not None and folder is None and output.is_dir():
            raise ValueError(f"-o {output} is a folder; give a folder's name that does not end in .md")
        if folder is not None and folder.is_file():
            raise ValueError(f"-o {folder} is a file; required: a folder, or a file's name such as report.md")
        if arguments.over and arguments.reference is None:
            raise ValueError("--over says what differences are over; required beside it: --reference VARIANT")
        folders = Folders(arguments.cases, arguments.gts, arguments.segs)
        if not arguments.runs and folders == Folders():
            raise ValueError(f"nothing to report; required: {REQUIRED}, or --cases IMGS")
        inputs = collect(arguments.runs)
        text, left_out, unreadable = _compose(inputs, folders, folder, arguments)
        if folder is not None:
            from graysam.reporting.page import to_html

            _write(folder / f"{NAME}.md", text)
            _write(folder / f"{NAME}.html", to_html(text, folder, "graysam: measured results"))
        elif output is not None:
            _write(output, text)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    print(text, end="")
    for line in unreadable:
        print(f"error: {line}", file=sys.stderr)
    if left_out:
        print(f"error: {len(left_out)} of {len(inputs.runs)} runs are not in the table", file=sys.stderr)
    return FAILED if left_out or unreadable else 0


def _compose(
    inputs: Inputs, folders: Folders, folder: Path | None, arguments: argparse.Namespace
) -> tuple[str, Sequence[str], Sequence[str]]:
    """Return the report's Markdown, its pictures drawn into `folder`.

    Also a line for each run that is not in it, and for each learning curve or case that cannot be read.
    """
    runs = [read_run(path) for path in inputs.runs]
    plain = folder is None and arguments.reference is None
    only_runs = not (inputs.metrics or inputs.probes or inputs.benchmarks or inputs.findings)
    if plain and runs and only_runs and folders == Folders():
        made = report(runs, modalities=arguments.modalities, kinds=arguments.kinds)
        return made.markdown, made.left_out, []
    sections: list[Section] = []
    left_out: list[str] = []
    unreadable: list[str] = []
    if inputs.metrics:
        sections.append(accuracy_section(inputs.metrics, scores_of(folders, inputs.metrics)))
    if folders.complete:
        shown, lines = cases_section(folders, inputs.metrics)
        sections += [] if shown is None else [shown]
        unreadable += lines
    sections += [_speed_section(found, number) for number, found in enumerate(inputs.benchmarks, start=1)]
    if inputs.probes:
        sections.append(probes_section(inputs))
    if folders.cases is not None:
        grey, lines = channels_section(folders)
        sections += [] if grey is None else [grey]
        unreadable += [line for line in lines if line not in unreadable]
    if runs:
        section, left_out, lacking = runs_section(
            runs,
            modalities=arguments.modalities,
            kinds=arguments.kinds,
            reference=arguments.reference,
            over=arguments.over,
        )
        sections.append(section)
        unreadable += lacking
    sections += findings_sections(inputs.findings)
    return document([*sections, missing_section(inputs, folders)], folder), left_out, unreadable


def _speed_section(content: Any, number: int) -> Section:
    text, charts = speed_section(content, number)
    return Section("Speed (the paper's Table 5)", [text], charts)  # type: ignore[arg-type]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graysam.report", description="Tables and figures.")
    parser.add_argument(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUNS",
        help="run directories, metrics files (evaluate -o), probes, benchmarks, findings, or folders that hold some",
    )
    parser.add_argument("--cases", type=Path, metavar="IMGS", help="input NPZ (imgs, boxes): draws their channels")
    parser.add_argument("--gts", type=Path, metavar="GTS", help="their masks, for pictures of best and worst cases")
    parser.add_argument("--segs", type=Path, metavar="SEGS", help="what graysam.predict made of them, likewise")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write the report; FILE.md: tables only")
    parser.add_argument(
        "--reference",
        metavar="VARIANT",
        help="also differences from this variant, paired by object, e.g. channels=replicate",
    )
    parser.add_argument(
        "--over",
        type=parse_list,
        default=[],
        metavar="MODALITY,...",
        help="of these modalities alone are the differences' macro averages, e.g. CT,MR,PET,US; default: of all",
    )
    parser.add_argument("--modalities", action="store_true", help="also DSC and NSD per modality")
    parser.add_argument("--kinds", action="store_true", help="also the benchmarked kinds (benchmark.json of each run)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
