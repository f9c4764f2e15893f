"""Export a model so that it runs without torch: `python -m graysam.export MODEL -o FOLDER --precision int8`.

The exported model is compared with torch on real images before it is kept; where it falls short, the exit code is 1.
`--format weights -o FILE.safetensors` stores the weights in float16 instead, for torch. Input that cannot be used ends
in exit code 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from graysam.imaging.channels import scheme_names
from graysam.system.command import command
from graysam.system.environment import check_extra
from graysam.system.outputs import OVERWRITE_HELP, check_output_file
from graysam.system.terminal import FAILED, one_line


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; argparse exits with code 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m graysam.export", description="Export a model to run without torch")
    add = parser.add_argument
    add("model", metavar="MODEL", help="graysam_l0, lite_medsam, a checkpoint, .safetensors, .pth or .pt file")
    add("-o", "--output", dest="folder", type=Path, required=True, metavar="PATH", help="an export there is replaced")
    formats = ("openvino", "onnx", "weights")
    add("--format", choices=formats, default="openvino", help="default: openvino; weights: a float16 .safetensors file")
    add("--precision", choices=("fp32", "bf16", "int8"), help="of openvino (default: int8); onnx has fp32")
    add("--channels", choices=scheme_names(), help="channel scheme; default: the model's own")
    shards_help = "packed shards to calibrate and compare on, all groups alike; default: the embedded demo"
    add("--shards", type=Path, nargs="+", metavar="DIR", help=shards_help)
    add("--calibration-images", type=int, default=300, help="slices for int8 (default: 300)")
    add("--check-images", type=int, default=96, help="slices to compare on (default: 96)")
    add("--cases", type=Path, metavar="DIR", help="compare on a folder of case files instead; with --gts")
    add("--gts", type=Path, metavar="DIR", help="ground truths of --cases, same names")
    add("--threads", type=int, help="CPU threads of the comparison")
    add("--interpolate-from", metavar="MODEL", help="with --format weights: the model that MODEL was fine-tuned from")
    add("--interpolate-weight", type=float, default=0.5, help="MODEL's weight in the interpolation (default: 0.5)")
    add("--overwrite", action="store_true", help=f"with --format weights: {OVERWRITE_HELP}")
    add("--keep-below-gate", action="store_true", help="keep a model that segments worse than the gate allows")
    arguments = parser.parse_args(argv)
    if arguments.interpolate_from is not None and arguments.format != "weights":
        parser.error("--interpolate-from requires --format weights; export the file that this writes afterwards")
    if arguments.overwrite and arguments.format != "weights":
        parser.error("--overwrite requires --format weights; an exported model is replaced without it, nothing else is")
    if arguments.format == "weights" and (arguments.shards or arguments.cases or arguments.channels):
        parser.error("--format weights stores a model as it is; leave out --shards, --cases and --channels")
    if arguments.format != "openvino" and arguments.precision not in (None, "fp32"):
        parser.error(f"--precision {arguments.precision} requires --format openvino")
    return arguments


@command("export")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    check_extra("train")
    if arguments.format == "onnx" or (arguments.format == "openvino" and arguments.precision in (None, "int8")):
        check_extra("quantize")
    from graysam.exporting.pipeline import BelowGate

    try:
        print(store_weights(arguments) if arguments.format == "weights" else export(arguments))
    except BelowGate as error:
        print(error.table)
        print(f"error: not kept: {one_line(error)}; see --keep-below-gate", file=sys.stderr)
        return FAILED
    except RuntimeError as error:  # torch's and OpenVINO's
        raise ValueError(one_line(error)) from error
    return 0


def store_weights(arguments: argparse.Namespace) -> str:
    """Store the weights in float16; return a description of the file."""
    from graysam.models.derived_weights import interpolate, save_half
    from graysam.models.weights import METADATA_KEY, read_weights

    files = [read_weights(name) for name in (arguments.interpolate_from, arguments.model) if name is not None]
    inputs = [Path(file.source.path) for file in files]
    check_output_file(arguments.folder, f'"{METADATA_KEY}":', inputs=inputs, overwrite=arguments.overwrite)
    file = files[0] if len(files) == 1 else interpolate(files[0], files[1], arguments.interpolate_weight)
    save_half(file, arguments.folder)
    return f"{arguments.folder}: {arguments.folder.stat().st_size / 1e6:.1f} MB"


def export(arguments: argparse.Namespace) -> str:
    """Export the model; return a description of what was written."""
    from graysam.exporting.pipeline import export_model, table

    left_out = ("interpolate_from", "interpolate_weight", "overwrite")
    options = {name: value for name, value in vars(arguments).items() if name not in left_out}
    exported = export_model(**options)
    size = sum(facts["bytes"] for facts in exported.description["files"].values())
    scores = table(exported.description["parity"]["scores"])
    return f"{scores}\n{exported.path}: {exported.name}, {exported.format} {exported.precision}, {size / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
