"""The released code's diffusion of a noisy edge, beside a plain blur and an edge-preserving diffusion."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import laplace

from graysam.imaging.channels import Released
from graysam.imaging.presets import load_scheme
from graysam.reproduction.checks import Check

SIDE = 128  # px
STEP, NOISE = 100, 5  # grey levels: of the edge, and the noise's standard deviation


def noisy_edge() -> NDArray[np.uint8]:
    """Return a vertical edge with noise, always the same: uint8 (128,128), 60 on the left and 160 on the right."""
    image = np.random.default_rng(0).normal(60, NOISE, (SIDE, SIDE))
    image[:, SIDE // 2 :] += STEP
    return np.rint(image).clip(0, 255).astype(np.uint8)


def plain_blur(grey: NDArray[np.uint8], gamma: float, iterations: int) -> NDArray[np.uint8]:
    """Blur uint8 (H,W) by moving each pixel by `gamma` towards its four neighbours, with wrap-around borders.

    This is the released diffusion with a conductance of 1: float32 on [0,1], cast by truncation.
    """
    image = grey.astype(np.float32) / 255
    for _ in range(iterations):
        image += np.float32(gamma) * laplace(image, mode="wrap")
    return (image * 255).astype(np.uint8)


def edge_and_noise(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the height of `noisy_edge`'s edge and the standard deviation of its noise: float64 (2,), grey levels."""
    middle, levels = SIDE // 2, image.astype(np.float64)
    inner = levels[:, 8 : middle - 8]  # away from edge and borders
    return np.array([levels[:, middle].mean() - levels[:, middle - 1].mean(), inner.std()])


def measure_diffusion() -> Check:
    """Measure how far the released diffusion is from a plain blur, and what each leaves of edge and noise."""
    released, image = load_scheme("released"), noisy_edge()
    assert isinstance(released, Released)
    (grey, diffused, _), (stretched, preserved, _) = (
        np.moveaxis(scheme(image), -1, 0) for scheme in (released, load_scheme("perona_malik"))
    )
    blurred = plain_blur(grey, released.gamma, released.iterations)
    rows = [
        [name, *(100 * edge_and_noise(after) / edge_and_noise(before)).tolist()]
        for name, before, after in (
            ("released code", grey, diffused),
            ("plain 5-point blur", grey, blurred),
            ("Perona-Malik", stretched, preserved),
        )
    ]
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
