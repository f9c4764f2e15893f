"""Reproducibility checks: what the paper, its released code and the metric leave unexplained, recomputed as tables."""

import math
import pkgutil
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import laplace

from graysam.imaging.channels import Released, load_scheme
from graysam.metrics.challenge import TOLERANCE, CaseMetrics, case_metrics

# Name -> function that computes it; imported by name, since networks and splits need the extra `train`.
CHECKS = {
    "nsd": "checks:compare_surfaces",
    "blur": "checks:measure_diffusion",
    "split": "splits:count_leaks",
    "quantization": "networks:count_quantized_layers",
    "macs": "networks:count_operations",
    "models": "networks:list_models",
}
NEED_TRAIN = ("split", "quantization", "macs", "models")
RADIUS = 40  # px, of the disc
SIDE = 128  # px, of the picture with the edge
STEP, NOISE = 100, 5  # grey levels: of the edge, and the noise's standard deviation
Cell = str | int | float | None  # None: there is no such number


@dataclass(frozen=True)
class Check:
    """A computed check.

    Attributes:
        title: of its section in the report.
        summary: the result in plain words.
        columns, rows: the table.
        skipped: why nothing was computed; "" where it was.
    """

    title: str
    summary: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    skipped: str = ""


def run_checks(names: Sequence[str] = (), train_npz: Path | None = None) -> dict[str, Any]:
    """Compute checks in the order of `CHECKS`, those that need the extra `train` only where it is installed.

    Args:
        names: keys of `CHECKS`; empty for all. Raises ValueError for another name.
        train_npz: folder of training NPZ for the check `split`; None for a synthetic set.

    Returns:
        Plain containers for JSON, which `graysam report` reads: of each check its fields, its name, and its command.
    """
    if unknown := sorted(set(names) - CHECKS.keys()):
        raise ValueError(f"unknown checks {', '.join(unknown)}; choose from {', '.join(CHECKS)}")
    checks = []
    for name in [name for name in CHECKS if not names or name in names]:
        options = [name, "--train-npz", str(train_npz)] if name == "split" and train_npz else [name]
        if name in NEED_TRAIN and find_spec("torch") is None:
            check = Check(name, skipped="it needs torch: pip install '.[train]'")
        else:
            compute = pkgutil.resolve_name(f"graysam.reproduction.{CHECKS[name]}")
            check = compute(train_npz) if name == "split" else compute()
        command = shlex.join(["graysam", "report", "--reproducibility-checks", *options])
        checks.append({"name": name, "command": command, **asdict(check)})
    return {"format": 1, "checks": checks}


def disc(shift: int, side: int) -> NDArray[np.uint8]:
    """Return a filled disc `shift` px to the right of the centre: uint8 (side,side), 1 inside."""
    rows, columns = np.ogrid[:side, :side]
    return ((rows - side // 2) ** 2 + (columns - side // 2 - shift) ** 2 <= RADIUS**2).astype(np.uint8)


def score_shifted_disc(shift: int) -> CaseMetrics:
    """Score a disc that lies `shift` px beside the true one."""
    side = 2 * (RADIUS + shift) + 9
    return case_metrics(disc(0, side), disc(shift, side))


def compare_surfaces() -> Check:
    """Score a shifted disc by DSC, the official NSD and the contour's NSD."""
    rows = [[shift, *(100 * value for value in score_shifted_disc(shift))] for shift in (0, 2, 4, 8, 16)]
    shift, dsc, nsd, contour = rows[3]
    return Check(
        "The official NSD of a 2D image measures its area, not its contour",
        f"The official script adds an axis to an image, and in a volume of one slice every foreground pixel is "
        f"surface: a disc of radius {RADIUS} px that is shifted by {shift} px has an official NSD of "
        f"{nsd:.1f} % at a tolerance of {TOLERANCE:g} px, while {contour:.1f} % of the contours agree; its DSC is "
        f"{dsc:.1f} %.",
        columns=("shift (px)", "DSC (%)", "official NSD (%)", "contour NSD (%)"),
        rows=rows,
    )


def measure_diffusion() -> Check:
    """Measure how far the released diffusion is from a plain blur, and what each leaves of edge and noise."""
    levels = np.random.default_rng(0).normal(60, NOISE, (SIDE, SIDE))
    levels[:, SIDE // 2 :] += STEP
    image = np.rint(levels).clip(0, 255).astype(np.uint8)
    released, perona_malik = load_scheme("released"), load_scheme("perona_malik")
    assert isinstance(released, Released)
    grey, diffused, _ = np.moveaxis(released(image), -1, 0)
    stretched, preserved, _ = np.moveaxis(perona_malik(image), -1, 0)
    # The released diffusion with a conductance of 1: float32 on [0,1], cast by truncation.
    unit = grey.astype(np.float32) / 255
    for _ in range(released.iterations):
        unit += np.float32(released.gamma) * laplace(unit, mode="wrap")
    blurred = (unit * 255).astype(np.uint8)
    rows = []
    for name, before, after in (
        ("released code", grey, diffused),
        ("plain 5-point blur", grey, blurred),
        ("Perona-Malik", stretched, preserved),
    ):
        rows.append([name, *(100 * _edge_and_noise(after) / _edge_and_noise(before)).tolist()])
    return Check(
        "The released anisotropic diffusion is a plain blur",
        f"With kappa {released.kappa:g} on an image in [0,1], no difference between neighbours has a conductance below "
        f"{math.exp(-((1 / released.kappa) ** 2)):.4f}, so edges are not preserved: on a noisy edge of {STEP} levels "
        f"the result differs from a plain 5-point blur by at most {np.abs(diffused.astype(int) - blurred).max()} grey "
        f"level, and {rows[0][1]:.0f} % of the edge is left; a diffusion with kappa on the image's own scale leaves "
        f"{rows[2][1]:.0f} %.",
        columns=("diffusion", "edge left (%)", "noise left (%)"),
        rows=rows,
    )


def _edge_and_noise(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the height of the edge and the standard deviation of the noise in grey levels."""
    middle, levels = SIDE // 2, image.astype(np.float64)
    inner = levels[:, 8 : middle - 8]  # away from edge and borders
    return np.array([levels[:, middle].mean() - levels[:, middle - 1].mean(), inner.std()])
