"""Segment a folder of cases: `python -m graysam.predict -i IN -o OUT --model MODEL`.

Reads the challenge's input NPZ and writes one `segs` NPZ of the same name each. A bad case is named, left out and
reported at the end, and the exit code is then 1; input that cannot be used at all gives exit code 2.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from graysam.imaging.channels import Scheme
from graysam.imaging.presets import load_scheme, scheme_names
from graysam.inference import telemetry
from graysam.inference.locating import DEFAULT_KIND, exported_path, shipped_models
from graysam.inference.stopwatch import Stopwatch, TimedBackend, seconds_since_start
from graysam.inference.volume import Backend, segment
from graysam.io.cases import Case, CaseError, read_input_case
from graysam.io.image import write_mask
from graysam.system.extras import require
from graysam.system.prefetch import Prefetcher
from graysam.system.terminal import BAD_INPUT, FAILED, one_line, progress

PRECISIONS = ("fp32", "bf16", "int8")
TORCH_PRECISIONS = ("fp32", "bf16")
CONVERTER = "openvino.tools.ovc"
PARTS = ("imports", "model", "read", "preprocess", "encode", "decode", "masks", "write")


@dataclass(frozen=True)
class Model:
    """What segments: a network, the channels it takes and the side of its input in pixels."""

    backend: Backend
    scheme: Scheme
    size: int


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; argparse exits with code 2 on a mistake."""
    parser = argparse.ArgumentParser(prog="python -m graysam.predict", description="Segment what boxes hold.")
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, help="folder of NPZ with imgs and boxes")
    add("-o", "--output", type=Path, required=True, help="folder for the NPZ with segs")
    add(
        "--model",
        required=True,
        help="graysam_l0, lite_medsam, a bundle's folder, a checkpoint, .safetensors, .pth or .pt file",
    )
    add(
        "--runtime",
        choices=("torch", "openvino"),
        help="default: openvino for bundles, for models that come with graysam, and for int8; torch for weight files",
    )
    add("--precision", choices=PRECISIONS, help="default: a bundle's own, int8 with openvino, fp32 with torch")
    add("--channels", choices=scheme_names(), help="channel scheme; default: the model's own")
    add("--propagation", choices=("own", "litemedsam"), default="own", help="boxes between slices")
    add("--z-max", choices=("inclusive", "exclusive"), default="inclusive", help="of 3D boxes")
    add("--threads", type=int, help="CPU threads; default: the runtime's own choice")
    add("--device", help="of the torch runtime, e.g. cuda; default: cpu")
    add("--no-cache", action="store_true", help="do not keep the compiled model for the next start")
    add("--overlay", type=Path, metavar="DIR", help="also write one PNG a case there")
    add("--timing", action="store_true", help="print where the time went since the process started")
    arguments = parser.parse_args(argv)
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}; required: at least 1")
    if arguments.runtime is None:
        arguments.runtime = default_runtime(arguments)
    return arguments


def default_runtime(arguments: argparse.Namespace) -> str:
    """Return the runtime for what the other options ask for: openvino where no torch is needed, or where it must be."""
    if arguments.device is not None:
        return "torch"
    kinds = shipped_models().get(arguments.model, [])
    shipped = arguments.precision in kinds if arguments.precision else bool(kinds)
    return "openvino" if shipped or Path(arguments.model).is_dir() or arguments.precision == "int8" else "torch"


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
        if arguments.device not in (None, "cpu"):
            raise ValueError(f"--device {arguments.device} needs --runtime torch; openvino runs on the CPU")
        return paths
    if arguments.precision not in (None, *TORCH_PRECISIONS):
        raise ValueError(f"--precision {arguments.precision} needs --runtime openvino; torch has fp32 and bf16")
    if Path(arguments.model).is_dir():
        raise ValueError(
            f"{arguments.model} is a folder, and bundles need --runtime openvino; give torch a weight file"
        )
    return paths


def open_torch(arguments: argparse.Namespace) -> Model:
    """Load a model for the torch runtime.

    Raises:
        ValueError: a model that cannot be loaded, a file that does not say its channels without --channels, a device
            that is not there.
    """
    require("train")
    import torch

    from graysam.exporting.torch_backend import TorchBackend
    from graysam.models.pretrained import open_pretrained

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    found = open_pretrained(arguments.model)
    scheme = found.scheme if arguments.channels is None else load_scheme(arguments.channels)
    if scheme is None:
        raise ValueError(
            f"{arguments.model} does not say which channels it was trained on; "
            f"give --channels {'|'.join(scheme_names())}"
        )
    print(found.source.describe())
    device = arguments.device or "cpu"
    try:
        backend = TorchBackend(found.model, device=device, precision=arguments.precision or "fp32")
    except (RuntimeError, AssertionError) as error:  # what torch raises for devices that are not there
        raise ValueError(f"--device {device} cannot be used: {one_line(error)[:200]}") from None
    return Model(backend, scheme, found.size)


def open_openvino(arguments: argparse.Namespace, path: Path) -> Model:
    """Load a bundle's folder for the OpenVINO runtime; ValueError where that cannot be."""
    from graysam.inference.predictor import Predictor

    predictor = Predictor(
        path,
        precision=arguments.precision,
        threads=arguments.threads,
        channels=arguments.channels,
        cache=not arguments.no_cache,
    )
    print(f"{predictor.exported.name} {predictor.exported.kind} from {predictor.exported.path}")
    return Model(predictor.backend, predictor.scheme, predictor.exported.size)


def export(arguments: argparse.Namespace, folder: Path) -> None:
    """Export a weight file into its folder in the user's cache, int8 calibrated on the embedded demo.

    Raises:
        ValueError: weights that cannot be exported, or that segment too much worse than in torch once they are.
    """
    for extra in ("train", "quantize", "demo"):
        require(extra)
    sys.modules.pop(CONVERTER, None)  # needed after all, and OpenVINO is not imported yet
    from graysam.exporting.pipeline import BelowGate, export_model

    kind = arguments.precision or DEFAULT_KIND
    print(f"{arguments.model} is exported as {kind}, once, into {folder}", flush=True)
    try:
        export_model(arguments.model, folder, kind=kind, channels=arguments.channels, threads=arguments.threads)
    except BelowGate as error:
        raise ValueError(
            f"{arguments.model} segments too much worse as {kind} than in torch ({one_line(error)}); "
            "give another --precision, or --runtime torch"
        ) from None


def open_model(arguments: argparse.Namespace, watch: Stopwatch) -> Model:
    """Load the model for the runtime asked for; ValueError where that cannot be."""
    if arguments.runtime == "torch":
        model = open_torch(arguments)
    else:
        path = exported_path(arguments.model, arguments.precision, arguments.channels)
        watch.lap("imports")
        if not path.is_dir():
            export(arguments, path)
        watch.lap("model")
        telemetry.switch_off()
        import openvino  # noqa: F401  # a part of its own, however long it takes

        watch.lap("imports")
        model = open_openvino(arguments, path)
    watch.lap("model")
    return Model(TimedBackend(model.backend, watch), model.scheme, model.size) if arguments.timing else model


def segment_case(
    arguments: argparse.Namespace, model: Model, watch: Stopwatch, path: Path, case: Case
) -> Callable[[], None]:
    """Segment one case, tell the user what was changed in it, and return what writes its masks."""
    watch.lap("read")
    if case.boxes is None:
        raise CaseError(f"{path}: no boxes")
    segs = segment(
        case.image.pixels,
        case.boxes,
        model.backend,
        model.scheme,
        propagation=arguments.propagation,
        z_max_inclusive=arguments.z_max == "inclusive",
        size=model.size,
    )
    for note in case.notes:
        print(f"note: {path.name}: {note}", file=sys.stderr)
    watch.lap("masks")
    return partial(write_case, arguments, path, case, segs)


def write_case(arguments: argparse.Namespace, path: Path, case: Case, segs: NDArray[np.uint16]) -> None:
    """Write a case's masks, and perhaps its overlay."""
    write_mask(arguments.output / path.name, segs)
    if arguments.overlay is not None:
        from graysam.imaging.drawing import write_overlay

        write_overlay(
            arguments.overlay / f"{path.stem}.png", case.image.pixels, segs, case.boxes, caption=case.image.name
        )


def segment_all(
    arguments: argparse.Namespace, paths: Sequence[Path], cases: Prefetcher[Path, Case], model: Model, watch: Stopwatch
) -> list[str]:
    """Segment all cases and return a line for each that failed."""
    failures: list[str] = []
    done = cases.run(partial(segment_case, arguments, model, watch))
    for path, error in progress(done, "predicting", total=len(paths)):
        watch.lap("write")
        if isinstance(error, MemoryError):
            failures.append(f"{path.name}: does not fit into memory; crop the case or use a larger machine")
        elif isinstance(
            error, (ValueError, OSError, RuntimeError, cv2.error)
        ):  # torch's want of memory is a RuntimeError
            failures.append(f"{path.name}: {one_line(error).removeprefix(f'{path}: ')}")
        elif error is not None:
            raise error
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    watch = Stopwatch(PARTS)
    watch.seconds["imports"] = seconds_since_start() or 0.0
    arguments = parse(argv)
    with ExitStack() as stack:
        try:
            paths = check(arguments)
            if arguments.threads is not None:
                cv2.setNumThreads(arguments.threads)
            read = partial(read_input_case, z_max_inclusive=arguments.z_max == "inclusive")
            cases = stack.enter_context(Prefetcher(paths, read))
            model = open_model(arguments, watch)
            for folder in (arguments.output, arguments.overlay):
                if folder is not None:
                    folder.mkdir(parents=True, exist_ok=True)
        except (ValueError, OSError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return BAD_INPUT
        started = time.perf_counter()
        failures = segment_all(arguments, paths, cases, model, watch)
    print(f"{len(paths) - len(failures)} of {len(paths)} cases in {time.perf_counter() - started:.1f} s")
    if arguments.timing:
        print(f"timing: {watch.describe()}")
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def leave_out_converter() -> None:
    """Keep `import openvino` from importing its converter, which takes two thirds of that import's time.

    OpenVINO's package goes on without it. For a process of one's own alone: others may want to convert models.
    """
    sys.modules[CONVERTER] = None  # type: ignore[assignment]  # what the import system takes as "not there"


def leave(code: int) -> NoReturn:
    """End the process at once: all is written, and taking networks apart lasts as long as segmenting an image."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave_out_converter()
    leave(main())
