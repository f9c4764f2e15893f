"""What the released code's diffusion does to an edge and to noise, beside a plain blur and a real diffusion."""

import math

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.channels import PeronaMalik, Released
from graysam.imaging.presets import load_scheme
from graysam.reproduction.finding import Finding

_SIDE, _STEP, _NOISE = 128, 100, 5  # px, grey levels, and their standard deviation
_RELEASED, _REAL = "released code", "Perona-Malik"


def noisy_step() -> NDArray[np.uint8]:
    """Return a vertical edge with noise, the same each time: uint8 (128,128), 60 to the left and 160 to the right."""
    image = np.full((_SIDE, _SIDE), 60.0)
    image[:, _SIDE // 2 :] += _STEP
    image += np.random.default_rng(0).normal(0, _NOISE, image.shape)
    return np.rint(image).clip(0, 255).astype(np.uint8)


def plain_blur(grey: NDArray[np.uint8], gamma: float, iterations: int) -> NDArray[np.uint8]:
    """Return the 5-point blur: each pixel moves by `gamma` towards each of its four neighbours, around the borders.

    grey: uint8 (H,W). It is the released diffusion with a conductance of 1: float32 on [0,1], cast by truncation.
    """
    image = grey.astype(np.float32) / 255
    for _ in range(iterations):
        neighbours = sum(np.roll(image, way, axis) for axis in (0, 1) for way in (-1, 1))
        image = image + np.float32(gamma) * (neighbours - 4 * image)
    return np.asarray((image * 255).astype(np.uint8))


def edge_and_noise(grey: NDArray[np.uint8], diffused: NDArray[np.uint8]) -> tuple[float, float]:
    """Return which share of `noisy_step`'s edge and of its noise is left; both arrays uint8 (128,128)."""
    before, after = (_edge_and_noise(image.astype(float)) for image in (grey, diffused))
    return after[0] / before[0], after[1] / before[1]


def _edge_and_noise(image: NDArray[np.float64]) -> tuple[float, float]:
    middle = _SIDE // 2
    inner = image[:, 8 : middle - 8]  # out of the reach of edge and borders
    return float(image[:, middle].mean() - image[:, middle - 1].mean()), float(inner.std())


def measure_diffusion(command: str) -> Finding:
    """Return how far the released diffusion is from a plain blur, and what each leaves of an edge."""
    released, real = load_scheme("released"), load_scheme("perona_malik")
    if not isinstance(released, Released) or not isinstance(real, PeronaMalik):
        raise ValueError("conf/channels: released or perona_malik is of another kind; restore these files")
    least = math.exp(-((1 / released.kappa) ** 2))  # of the largest difference that there is on [0,1]
    image = noisy_step()
    channels = {"released": released(image), "perona_malik": real(image)}
    grey = channels["released"][..., 0]
    blurred = plain_blur(grey, released.gamma, released.iterations)
    apart = np.abs(channels["released"][..., 1].astype(int) - blurred).max()
    shares = {
        _RELEASED: edge_and_noise(grey, channels["released"][..., 1]),
        "plain 5-point blur": edge_and_noise(grey, blurred),
        _REAL: edge_and_noise(channels["perona_malik"][..., 0], channels["perona_malik"][..., 1]),
    }
    return Finding(
        name="blur",
        title="The released anisotropic diffusion is a plain blur",
        command=command,
        summary=(
            f"With kappa {released.kappa:g} on an image of [0,1], no difference of neighbours has a conductance below "
            f"{least:.4f}, so nothing is held back at an edge: on a noisy edge of {_STEP} levels the result is that of "
            f"a plain 5-point blur to {apart} grey level{'' if apart == 1 else 's'}, and "
            f"{100 * shares[_RELEASED][0]:.0f} % of the edge is left, where a diffusion with kappa on the image's "
            f"own scale leaves {100 * shares[_REAL][0]:.0f} %."
        ),
        columns=("diffusion", "edge left (%)", "noise left (%)"),
        rows=[[name, 100 * edge, 100 * noise] for name, (edge, noise) in shares.items()],
    )
