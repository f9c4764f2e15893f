"""`graysam report RUNS...`: make a report of run directories, metrics files, probes, benchmarks and checks.

`--cases IMGS` adds the channels of grey images, with `--gts GTS --segs SEGS` also pictures of the best and worst cases.
Without `-o` the report is printed; `-o FILE.md` also writes it. `-o FOLDER` writes `report.md` with its pictures, and
`report.html`, one file that needs nothing else.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from graysam.system.command import command
from graysam.system.environment import check_extra
from graysam.system.files import write_json_file
from graysam.system.outputs import OVERWRITE_HELP, check_output_file
from graysam.system.terminal import parse_list, report_problems

INPUTS = "run directories, metrics files (evaluate -o), probes, benchmarks, reproducibility checks, or folders of these"


@command("report")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 where something could not be reported, 2 for unusable arguments."""
    arguments = _parser().parse_args(argv)
    if arguments.reproducibility_checks is not None:
        from graysam.reporting.reproducibility import parse_checks
        from graysam.reproduction.checks import run_checks

        if arguments.output is not None:
            check_output_file(arguments.output, '"checks": ', overwrite=arguments.overwrite)
        checks = run_checks(arguments.reproducibility_checks, arguments.train_npz)
        if arguments.output is not None:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            write_json_file(arguments.output, checks)
        print(*(f"### {one.title}\n\n{one.text}" for one in parse_checks(checks)), sep="\n\n")
    elif arguments.wandb_workspace is not None:
        check_extra("dashboards")
        from graysam.reporting.wandb_workspace import save_workspace

        print(save_workspace(arguments.wandb_workspace, arguments.over))
    else:
        check_extra("report")
        return _report(arguments)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from graysam.reporting.document import collect, compose, report_folder, write_report
    from graysam.reporting.pictures import Folders

    output: Path | None = arguments.output
    folder = report_folder(output, overwrite=arguments.overwrite)
    if arguments.over and arguments.reference is None:
        raise ValueError("--over selects the modalities of differences; required beside it: --reference VARIANT")
    folders = Folders(arguments.cases, arguments.gts, arguments.segs)
    if not arguments.runs and folders == Folders():
        raise ValueError(f"nothing to report; required: {INPUTS}, or --cases IMGS")
    inputs = collect(arguments.runs)
    text, excluded, problems = compose(inputs, folders, folder, arguments)
    if output is not None:
        write_report(text, output, folder)
    print(text, end="")
    if excluded:
        problems.append(f"{len(excluded)} of {len(inputs.runs)} runs are not in the table")
    return report_problems(problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="graysam report", description="Tables, figures and one page of results.")
    add = parser.add_argument
    add("runs", type=Path, nargs="*", metavar="RUNS", help=INPUTS)
    add("--cases", type=Path, metavar="IMGS", help="input NPZ (imgs, boxes); their channels are drawn")
    add("--gts", type=Path, metavar="GTS", help="ground truth, for pictures of the best and worst cases")
    add("--segs", type=Path, metavar="SEGS", help="masks of graysam predict for them, likewise")
    add("-o", "--output", type=Path, metavar="FOLDER", help="write the report; FILE.md: its text only")
    add("--reference", metavar="VARIANT", help="add differences from this variant, e.g. channels=replicate")
    over = "modalities of the macro averages of differences, e.g. CT,MR,PET,US, or of the workspace; default: all"
    add("--over", type=parse_list, default=[], metavar="MODALITY,...", help=over)
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    add("--modalities", action="store_true", help="add DSC and NSD per modality")
    add("--methods", action="store_true", help="add the quantization methods (quantization.json of each run)")
    checks = "recompute what the paper leaves unexplained, all or the named checks; -o FILE.json for a report"
    add("--reproducibility-checks", nargs="*", metavar="NAME", help=checks)
    add("--train-npz", type=Path, metavar="DIR", help="training NPZ whose volumes the check `split` splits")
    add("--wandb-workspace", metavar="ENTITY/PROJECT", help="save a W&B view of the runs' panels and end")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
