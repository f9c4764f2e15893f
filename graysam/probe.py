"""Probe a model on cases with masks: `python -m graysam.probe -i IMGS -g GTS --model MODEL -o FILE.json`.

Every object is segmented with its tight box and with boxes shifted, enlarged and shrunk; the file holds DSC for each,
and the predicted beside the real IoU. A bad case is named, left out and reported at the end, and the exit code is then
1; input that cannot be used at all gives exit code 2.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from graysam.imaging.presets import scheme_names
from graysam.inference.predictor import Predictor
from graysam.io.cases import read_gts, read_input_case
from graysam.reproduction.probing import CHANGES, probe_case
from graysam.system.files import write_json_file
from graysam.system.terminal import BAD_INPUT, FAILED, one_line, progress


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; argparse exits with code 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m graysam.probe", description="Answers to boxes that are not tight.")
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, help="folder of NPZ with imgs and boxes")
    add("-g", "--gts", type=Path, required=True, help="folder of NPZ with gts, of the same names")
    add("-o", "--output", type=Path, required=True, metavar="FILE.json", help="what was found, object by object")
    add("--model", required=True, help="graysam_l0, lite_medsam, a bundle's folder, or a model exported before")
    add("--precision", choices=("fp32", "bf16", "int8"), help="default: a bundle's own, int8 for names")
    add("--channels", choices=scheme_names(), help="channel scheme; default: the model's own")
    add("--threads", type=int, help="CPU threads; default: OpenVINO's own choice")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    try:
        for folder in (arguments.input, arguments.gts):
            if not folder.is_dir():
                raise ValueError(f"{folder} is no folder; give folders of NPZ files")
        paths = sorted(arguments.input.glob("*.npz"))
        if not paths:
            raise ValueError(f"{arguments.input} holds no .npz file")
        if arguments.output.is_dir():
            raise ValueError(f"-o {arguments.output} is a folder; required: a file's name, such as probe.json")
        predictor = Predictor(
            arguments.model, precision=arguments.precision, threads=arguments.threads, channels=arguments.channels
        )
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    objects, problems = [], []
    for path in progress(paths, "probing"):
        try:
            case = read_input_case(path)
            gts, _ = read_gts(arguments.gts / path.name)
            objects += [
                asdict(found)
                for found in probe_case(case, gts, predictor.backend, predictor.scheme, predictor.exported.size)
            ]
        except (ValueError, OSError) as error:
            problems.append(f"{path.stem}: {one_line(error)}")
    document = {
        "name": predictor.exported.name,
        "kind": predictor.exported.kind,
        "changes": CHANGES,
        "objects": objects,
    }
    write_json_file(arguments.output, document)
    print(f"{arguments.output}: {len(objects)} objects of {len(paths) - len(problems)} cases")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return FAILED if problems else 0


if __name__ == "__main__":
    sys.exit(main())
