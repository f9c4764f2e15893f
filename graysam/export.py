"""Turn a trained model into a bundle that needs no torch: `python -m graysam.export MODEL -o FOLDER --kind int8`.

The bundle is compared with torch on real images before it gets its name; one that falls short is not kept, and the
exit code is then 1. `--kind weights -o FILE.safetensors` stores the weights in float16 instead, for torch. Input that
cannot be used gives exit code 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from graysam.imaging.presets import scheme_names
from graysam.inference.exported_model import KINDS
from graysam.system.extras import require
from graysam.system.terminal import BAD_INPUT, FAILED, one_line

WEIGHTS = "weights"  # a kind that is no bundle


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; argparse exits with code 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m graysam.export", description="Turn a model into a bundle.")
    add = parser.add_argument
    add("model", metavar="MODEL", help="graysam_l0, lite_medsam, a checkpoint, .safetensors, .pth or .pt file")
    add("-o", "--output", type=Path, required=True, metavar="PATH", help="the bundle; one that is there is replaced")
    add("--kind", choices=(*KINDS, WEIGHTS), default="int8", help="default: int8; weights: a float16 .safetensors file")
    add("--channels", choices=scheme_names(), help="channel scheme; default: the model's own")
    add(
        "--shards",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="packed shards to calibrate and check on, of several folders all groups alike; default: the embedded demo",
    )
    add("--calibration-images", type=int, default=300, help="training slices for int8 (default: 300)")
    add("--check-images", type=int, default=96, help="held-out slices to compare on (default: 96)")
    add("--cases", type=Path, metavar="DIR", help="compare on a folder of case files instead; with --gts")
    add("--gts", type=Path, metavar="DIR", help="ground truths of --cases, same names")
    add("--threads", type=int, help="CPU threads of the comparison")
    add("--blend-from", metavar="MODEL", help="with --kind weights: the model that MODEL was fine-tuned from")
    add("--blend-share", type=float, default=0.5, help="MODEL's share in the blend of both (default: 0.5)")
    add("--keep-below-gate", action="store_true", help="keep a bundle that segments worse than the gate allows")
    arguments = parser.parse_args(argv)
    if (arguments.cases is None) != (arguments.gts is None):
        parser.error("--cases and --gts go together: case files, and their ground truths")
    if arguments.blend_from is not None and arguments.kind != WEIGHTS:
        parser.error(f"--blend-from goes with --kind {WEIGHTS}; export what that gives as {arguments.kind} then")
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}; required: at least 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    require("train")
    if arguments.kind == WEIGHTS:
        return store_weights(arguments)
    if arguments.kind in ("int8", "onnx"):
        require("quantize")
    if arguments.shards is None:
        require("demo")
    from graysam.exporting.parity import table
    from graysam.exporting.pipeline import BelowGate, Settings, export_model

    cases = None if arguments.cases is None else (arguments.cases, arguments.gts)
    try:
        bundle = export_model(
            arguments.model,
            arguments.output,
            kind=arguments.kind,
            channels=arguments.channels,
            shards_dirs=arguments.shards,
            cases=cases,
            threads=arguments.threads,
            settings=Settings(calibration_images=arguments.calibration_images, check_images=arguments.check_images),
            keep_below_gate=arguments.keep_below_gate,
        )
    except BelowGate as error:
        print(error.table)
        print(f"error: not kept: {one_line(error)}; see --keep-below-gate", file=sys.stderr)
        return FAILED
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    print(table(bundle.description["parity"]["scores"]))
    size = sum(facts["bytes"] for facts in bundle.description["files"].values())
    print(f"{bundle.path}: {bundle.name}, {bundle.precision}, {size / 1e6:.1f} MB")
    return 0


def store_weights(arguments: argparse.Namespace) -> int:
    """Store a checkpoint in float16 and return the exit code."""
    from graysam.models.half_precision import save_half
    from graysam.models.interpolation import interpolate
    from graysam.models.weights import read_weights

    try:
        file = read_weights(arguments.model)
        if arguments.blend_from is not None:
            file = interpolate(read_weights(arguments.blend_from), file, arguments.blend_share)
        save_half(file, arguments.output)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
