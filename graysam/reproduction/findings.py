"""What paper, code and metric leave unsaid: `python -m graysam.reproduction.findings -o findings.json`.

All findings are computed, or those that are named. Those on networks and splits need `pip install '.[train]'` and are
left out with the reason where it is missing, unless they are named. Input that cannot be used gives exit code 2.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from graysam.reporting.findings import from_document, markdown
from graysam.reproduction.diffusion import measure_diffusion
from graysam.reproduction.finding import Finding, as_document, write_findings
from graysam.reproduction.surfaces import compare_surfaces
from graysam.system.extras import missing, require
from graysam.system.terminal import BAD_INPUT, one_line

NEED_TRAIN = {  # name -> title, told where it cannot be computed
    "split": "Splits by slices and by patients",
    "quantization": "What dynamic quantization touches",
    "macs": "The paper's FLOPs",
    "models": "Parameters, multiply-accumulates and sizes",
}
NAMES = ("nsd", "blur", *NEED_TRAIN)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    named: list[str] = arguments.names
    try:
        strangers = sorted(set(named) - set(NAMES))
        if strangers:
            raise ValueError(f"unknown {', '.join(strangers)}; required: some of {', '.join(NAMES)}, or none for all")
        if arguments.output is not None and arguments.output.is_dir():
            raise ValueError(f"-o {arguments.output} is a folder; required: a file's name, such as findings.json")
        if NEED_TRAIN.keys() & named:
            require("train")
        findings = [_compute(name, arguments.train_npz) for name in NAMES if not named or name in named]
        if arguments.output is not None:
            write_findings(arguments.output, findings)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    print(markdown(from_document(as_document(findings))))
    return 0


def _compute(name: str, train_npz: Path | None) -> Finding:
    command = f"python -m graysam.reproduction.findings {name}"
    if name == "nsd":
        return compare_surfaces(command)
    if name == "blur":
        return measure_diffusion(command)
    absent = missing("train")
    if absent:
        reason = f"it needs {', '.join(absent)}: pip install '.[train]'"
        return Finding(name, NEED_TRAIN[name], command, skipped=reason)
    if name == "split":
        from graysam.reproduction.splits import count_leaks

        given = "" if train_npz is None else f" --train-npz {shlex.quote(str(train_npz))}"
        return count_leaks(command + given, train_npz)
    from graysam.reproduction.networks import count_operations, find_quantized, list_models

    of_networks: dict[str, Callable[[str], Finding]] = {
        "quantization": find_quantized,
        "macs": count_operations,
        "models": list_models,
    }
    return of_networks[name](command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graysam.reproduction.findings", description="Findings.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none: all")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="also write them, for graysam.report")
    parser.add_argument(
        "--train-npz", type=Path, metavar="DIR", help="training NPZ whose volumes are split; default: a made-up set"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
