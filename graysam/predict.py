"""Segment a folder of cases: `graysam predict -i IN -o OUT --model MODEL`.

Reads the challenge's input NPZ and writes one `segs` NPZ of the same name each. A bad case is named, left out and
reported at the end, and the exit code is then 1; input that cannot be used at all gives exit code 2.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from graysam.imaging.channels import scheme_names
from graysam.inference.case_files import find_case_files, read_ahead, segment_case_files
from graysam.inference.exported_model import export_on_first_use
from graysam.inference.openvino_core import skip_converter
from graysam.inference.predictor import Predictor, choose_backend
from graysam.io.cases import read_input_case
from graysam.io.listing import list_folder
from graysam.system.command import command
from graysam.system.outputs import OVERWRITE_HELP
from graysam.system.terminal import report_problems


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; argparse exits with code 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="graysam predict", description="Segment the object in each box.")
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, help="directory of NPZ with imgs and boxes")
    add("-o", "--output", type=Path, required=True, help="directory for the NPZ with segs")
    add("--model", required=True, help="graysam_l0, lite_medsam, an exported model's directory, or a weight file")
    add("--backend", choices=("openvino", "torch", "onnxruntime"), help="default: torch for weight files not in int8")
    add("--precision", choices=("fp32", "bf16", "int8"), help="default: an exported model's own, fp32 with torch")
    add("--channels", choices=scheme_names(), help="channel scheme; default: the model's own")
    add("--propagation", choices=("own", "litemedsam"), default="own", help="boxes between slices")
    add("--zoom", default="auto", metavar="off|auto|FACTOR", help="look closely at boxes; default: auto")
    add("--walk", default="slices", metavar="slices|three_axes|auto", help="through volumes; default: slices")
    add("--z-max", choices=("inclusive", "exclusive"), default="inclusive", help="of 3D boxes")
    add("--threads", type=int, help="CPU threads; default: the backend's own choice")
    add("--device", help="of the torch backend, e.g. cuda; default: cpu")
    add("--no-cache", action="store_true", help="do not keep the compiled model for the next start")
    add("--overlay", type=Path, metavar="DIR", help="also write one PNG a case there")
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return parser.parse_args(argv)


def open_predictor(arguments: argparse.Namespace) -> Predictor:
    """Load the model, exporting a weight file first where OpenVINO is to run it; ValueError where that cannot be."""
    options = {"backend": arguments.backend, "precision": arguments.precision, "device": arguments.device}
    model = arguments.model
    if choose_backend(arguments.model, **options) == "openvino":
        model = export_on_first_use(arguments.model, arguments.precision, arguments.channels, arguments.threads)
    options |= {"channels": arguments.channels, "threads": arguments.threads, "cache": not arguments.no_cache}
    options |= {"zoom": arguments.zoom, "walk": arguments.walk}
    predictor = Predictor(model, **options)
    print(predictor.description)
    return predictor


@command("predict")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    options = {"propagation": arguments.propagation, "z_max_inclusive": arguments.z_max == "inclusive"}
    read = partial(read_input_case, z_max_inclusive=options["z_max_inclusive"])
    folders = {"output": arguments.output, "overlay": arguments.overlay}
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:  # one pool of two starts later
        paths = find_case_files(arguments.input, **folders, overwrite=arguments.overwrite)
        cases = read_ahead(paths, read, reader)  # the first while the model is loaded
        predictor = open_predictor(arguments)
        for folder in filter(None, folders.values()):
            folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        failures = segment_case_files(cases, len(paths), writer, predictor, **folders, **options)
    print(f"{len(paths) - len(failures)} of {len(paths)} cases in {time.perf_counter() - started:.1f} s")
    sys.stderr.writelines(list_folder(arguments.input).describe(arguments.input))
    return report_problems(failures)


if __name__ == "__main__":
    skip_converter()
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is written, and taking networks apart takes as long as segmenting an image
