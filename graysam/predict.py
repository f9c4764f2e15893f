"""Segment a folder of cases: `python -m graysam.predict -i IN -o OUT --model MODEL`.

Reads the challenge's input NPZ and writes one `segs` NPZ of the same name each. A bad case is named, left out and
reported at the end, and the exit code is then 1; input that cannot be used at all gives exit code 2.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from graysam.data.cases import CaseError, read_input_case, write_segs
from graysam.extras import require
from graysam.imaging.channels import Scheme
from graysam.imaging.presets import load_scheme, scheme_from_dict, scheme_names
from graysam.runtime.volume import Backend, segment
from graysam.terminal import BAD_INPUT, FAILED, one_line, progress

TORCH_PRECISIONS = ("fp32", "bf16")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; argparse exits with code 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m graysam.predict", description="Segment what boxes hold.")
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of NPZ with imgs and boxes")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the NPZ with segs")
    parser.add_argument("--model", required=True, help="lite_medsam, a checkpoint, .safetensors, .pth or .pt file")
    parser.add_argument("--runtime", choices=("torch", "openvino"), default="torch")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--channels", choices=scheme_names(), help="channel scheme; default: the model's own")
    parser.add_argument("--propagation", choices=("own", "litemedsam"), default="own", help="boxes between slices")
    parser.add_argument("--z-max", choices=("inclusive", "exclusive"), default="inclusive", help="of 3D boxes")
    parser.add_argument("--threads", type=int, help="CPU threads; default: the runtime's own choice")
    parser.add_argument("--device", default="cpu", help="of the torch runtime, e.g. cuda")
    parser.add_argument("--overlay", type=Path, metavar="DIR", help="also write one PNG a case there")
    arguments = parser.parse_args(argv)
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}; required: at least 1")
    return arguments


def check(arguments: argparse.Namespace) -> list[Path]:
    """Return the case files, sorted.

    Raises:
        ValueError: whatever cannot work, found before the runtime is loaded.
    """
    if not arguments.input.is_dir():
        raise ValueError(f"{arguments.input} is no folder; give -i a folder of NPZ files")
    paths = sorted(arguments.input.glob("*.npz"))
    if not paths:
        raise ValueError(f"{arguments.input} holds no .npz file; give -i a folder of NPZ files with imgs and boxes")
    if arguments.output.resolve() == arguments.input.resolve():
        raise ValueError(f"-o {arguments.output} is the input folder, whose cases would be overwritten; give another")
    for option, folder in (("-o", arguments.output), ("--overlay", arguments.overlay)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ValueError(f"{option} {folder} is a file; give a folder's name")
    if arguments.runtime == "openvino":
        raise ValueError("--runtime openvino is not part of this version yet; use --runtime torch")
    if arguments.precision not in TORCH_PRECISIONS:
        raise ValueError(f"--precision {arguments.precision} needs --runtime openvino; torch has fp32 and bf16")
    if arguments.model == "graysam_l0":
        raise ValueError("graysam has no weights of its own yet; give --model lite_medsam or a checkpoint's path")
    return paths


def open_torch(arguments: argparse.Namespace) -> tuple[Backend, Scheme, int]:
    """Load a model for the torch runtime; return its backend, channel scheme and input size."""
    require("train")
    import torch

    from graysam.config.composing import load_group
    from graysam.models.build import build_sam
    from graysam.models.pretrained import model_name
    from graysam.models.weights import load_parts, read_weights
    from graysam.runtime.torch_backend import TorchBackend

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    file = read_weights(arguments.model)
    if file.metadata is not None:
        try:
            numbers, size = dict(file.metadata["model"]), int(file.metadata["size"])
            scheme = scheme_from_dict(file.metadata["channels"])
            model = build_sam(**numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{arguments.model}: the description graysam stored in it is damaged ({one_line(error)}); "
                "give an intact checkpoint"
            ) from None
    else:
        name = model_name(file)
        numbers, size = load_group("model", name), 256
        if name != "lite_medsam" and arguments.channels is None:
            raise ValueError(
                f"{arguments.model} does not say which channels it was trained on; "
                f"give --channels {'|'.join(scheme_names())}"
            )
        scheme = load_scheme("replicate")
        model = build_sam(**numbers)
    if arguments.channels is not None:
        scheme = load_scheme(arguments.channels)
    print(load_parts(model, file).describe())
    try:
        return TorchBackend(model, device=arguments.device, precision=arguments.precision), scheme, size
    except (RuntimeError, AssertionError) as error:  # what torch raises for devices that are not there
        raise ValueError(f"--device {arguments.device} cannot be used: {one_line(error)[:200]}") from None


def predict_case(path: Path, arguments: argparse.Namespace, backend: Backend, scheme: Scheme, size: int) -> list[str]:
    """Segment one case, write its masks and perhaps its overlay, and return notes for the user."""
    inclusive = arguments.z_max == "inclusive"
    case = read_input_case(path, z_max_inclusive=inclusive)
    if case.boxes is None:
        raise CaseError(f"{path}: no boxes")
    segs = segment(
        case.image,
        case.boxes,
        backend,
        scheme,
        propagation=arguments.propagation,
        z_max_inclusive=inclusive,
        size=size,
    )
    write_segs(arguments.output / path.name, segs)
    if arguments.overlay is not None:
        from graysam.overlay import write_overlay

        write_overlay(arguments.overlay / f"{path.stem}.png", case.image, segs, case.boxes, caption=case.name)
    return list(case.notes)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    try:
        paths = check(arguments)
        if arguments.threads is not None:
            cv2.setNumThreads(arguments.threads)
        backend, scheme, size = open_torch(arguments)
        for folder in (arguments.output, arguments.overlay):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    failures: list[str] = []
    started = time.perf_counter()
    for path in progress(paths, "predicting"):
        try:
            for note in predict_case(path, arguments, backend, scheme, size):
                print(f"note: {path.name}: {note}", file=sys.stderr)
        except MemoryError:
            failures.append(f"{path.name}: does not fit into memory; crop the case or use a larger machine")
        except (ValueError, OSError, RuntimeError, cv2.error) as error:  # torch's want of memory is a RuntimeError
            failures.append(f"{path.name}: {one_line(error).removeprefix(f'{path}: ')}")
    print(f"{len(paths) - len(failures)} of {len(paths)} cases in {time.perf_counter() - started:.1f} s")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main())
