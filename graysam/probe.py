"""Probe a model on cases with masks: `python -m graysam.probe -i IMGS -g GTS --model MODEL -o FILE.json`.

Every object is segmented with its tight box and with boxes shifted, enlarged and shrunk; the file holds DSC for each,
and the predicted beside the real IoU. Cases that cannot be read are named and left out, and the exit code is 1;
arguments that cannot be used give 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graysam.imaging.channels import scheme_names
from graysam.inference.predictor import Predictor
from graysam.io.cases import read_gts
from graysam.io.image import read_image
from graysam.io.listing import case_path, case_paths, list_folder
from graysam.metrics.aggregation import macro_average
from graysam.reproduction.probing import CHANGES, probe_image
from graysam.system.command import command
from graysam.system.files import write_json_file
from graysam.system.outputs import OVERWRITE_HELP, check_output_file
from graysam.system.terminal import one_line, progress, report_problems


@command("probe")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = _parser().parse_args(argv)
    output: Path = arguments.output
    paths = case_paths(arguments.input, "-i")
    inputs = [*paths, *list_folder(arguments.gts).files] if arguments.gts.is_dir() else paths
    check_output_file(output, '"changes": ', inputs=[*inputs, Path(arguments.model)], overwrite=arguments.overwrite)
    predictor = Predictor(
        arguments.model, precision=arguments.precision, threads=arguments.threads, channels=arguments.channels
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    objects: list[dict[str, Any]] = []
    problems = []
    for path in progress(paths, "probing"):
        try:
            image = read_image(path)
            objects += probe_image(image, read_gts(case_path(arguments.gts, path.stem), None)[0], predictor)
            sys.stderr.writelines(f"note: {path.stem}: {note}\n" for note in image.notes)
        except (ValueError, OSError) as error:
            problems.append(f"{path.stem}: {one_line(error)}")
    model = {"name": predictor.name, "precision": predictor.precision}
    write_json_file(output, {**model, "changes": CHANGES, "objects": objects})
    dsc = 100 * macro_average((found["modality"], found["dsc"]) for found in objects)
    print(f"{output}: {len(objects)} objects of {len(paths) - len(problems)} cases, DSC {dsc:.2f} % for tight boxes")
    sys.stderr.writelines(list_folder(arguments.input).describe(arguments.input))
    return report_problems(problems)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m graysam.probe", description="Segment with boxes not tight.")
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, help="folder of NPZ with imgs and boxes")
    add("-g", "--gts", type=Path, required=True, help="folder of NPZ with gts, of the same names")
    add("-o", "--output", type=Path, required=True, metavar="FILE.json", help="results by object")
    add("--model", required=True, help="graysam_l0, lite_medsam, an exported model's folder, or a weight file")
    add("--precision", choices=("fp32", "bf16", "int8"), help="default: that of the exported model, int8 for names")
    add("--channels", choices=scheme_names(), help="channel scheme; default: the model's own")
    add("--threads", type=int, help="CPU threads; default: chosen by OpenVINO")
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return parser


if __name__ == "__main__":
    sys.exit(main())
