"""The bundles that contenders run: given, exported earlier, or exported now into the user's cache.

`python -m graysam.benchmarking.preparing MODEL KIND FOLDER [CHANNELS]` exports one: torch, and what it does to a
process, stays out of the benchmark's own.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from graysam.benchmarking.contenders import PLAIN, Contender
from graysam.benchmarking.processes import run_to_end
from graysam.imaging.channels import Scheme
from graysam.imaging.presets import load_scheme, scheme_names, scheme_to_dict
from graysam.inference.exported_model import is_exported, write_exported
from graysam.inference.locating import exported_path
from graysam.system.extras import require
from graysam.system.terminal import BAD_INPUT, one_line

if TYPE_CHECKING:
    from graysam.models.sam import Sam

L1 = "medficientsam_l1"  # a name of the cache alone: random weights
_L1_SIZE = 512


def prepare(contender: Contender, *, l0: str | None, channels: str | None, bundles: Mapping[str, Path]) -> Path | None:
    """Return the folder of the bundle that a contender runs, None for one that runs none.

    l0: the weight file of the L0 rows; channels: the scheme it was trained on, where it does not say; bundles: folders
    given for single rows. What is not there yet is exported once, which needs torch and takes its time.

    Raises:
        ValueError: the model's file is not there. WorkerError: it could not be exported.
    """
    if contender.model is None or contender.kind is None:
        return None
    if contender.name in bundles:
        return bundles[contender.name]
    model = {"l0": str(l0), "l1": L1}.get(contender.model, contender.model)
    chosen = channels if contender.model == "l0" else None
    path = exported_path(model, contender.kind, chosen)
    if not is_exported(path):
        print(f"{model} is exported as {contender.kind}, once, into {path}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "graysam.benchmarking.preparing", model, contender.kind, str(path)]
        run_to_end([*command, *([chosen] if chosen else [])])
    return path


# ------------------------------------------------------------------ in the process that exports
@dataclass(frozen=True)
class _Source:
    """What is exported: a network, the channels it takes, the side of its input, and the precision asked for."""

    network: "Sam"
    scheme: Scheme
    size: int
    precision: str | None


def _export_plain(model: str, channels: str | None, path: Path) -> None:
    """Write a model's graphs as they are converted, for one box, as the challenge's winners ran them."""
    from graysam.exporting.conversion import convert_plain
    from graysam.exporting.graph_files import save_graphs

    source = _random_l1() if model == L1 else _from_file(model, channels)
    graphs = convert_plain(source.network, source.size)
    description = {
        "name": Path(model).stem,
        "kind": "fp32",
        "precision": source.precision,
        "size": source.size,
        "channels": scheme_to_dict(source.scheme),
    }
    write_exported(path, description=description, write_graphs=partial(save_graphs, graphs, half_precision=False))


def _from_file(model: str, channels: str | None) -> _Source:
    """Return a weight file's network, at OpenVINO's own choice of precision, as DAFT ran it."""
    from graysam.models.pretrained import open_pretrained

    found = open_pretrained(model)
    scheme = found.scheme if channels is None else load_scheme(channels)
    if scheme is None:
        raise ValueError(
            f"{model} does not say which channels it was trained on; give --channels {'|'.join(scheme_names())}"
        )
    return _Source(found.model, scheme, found.size, None)


def _random_l1() -> _Source:
    """Return L1 for 512 px in float32, as MedficientSAM ran it, with random weights: the same every time."""
    import torch

    from graysam.models.registry import build_model

    torch.manual_seed(0)
    # Only boxes are on the larger grid; the embedding and the masks stay at 64 and 256, as in SAM's heads.
    network = build_model("efficientvit_sam_l1", heads={"input_size": _L1_SIZE}).eval()
    return _Source(network, load_scheme("replicate"), _L1_SIZE, "f32")


def main(argv: Sequence[str]) -> int:
    """Export a bundle and return the exit code."""
    model, kind, folder = argv[0], argv[1], Path(argv[2])
    channels = argv[3] if len(argv) > 3 else None
    for extra in ("train", "quantize", "demo"):
        require(extra)
    try:
        if kind == PLAIN:
            _export_plain(model, channels, folder)
        else:
            from graysam.exporting.pipeline import export_model

            export_model(model, folder, kind=kind, channels=channels)
    except (ValueError, OSError, RuntimeError) as error:
        print(one_line(error), file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
