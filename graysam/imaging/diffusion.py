"""Anisotropic diffusion of grey images: edge-preserving, and as the paper's released code computes it."""

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Conductance = Literal["exponential", "rational"]
UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

_CACHED_PIXELS = 1 << 16  # pixels of a strip of rows, whose floats fit into a core's cache


def diffuse(
    image: Float32Array, *, iterations: int, kappa: float, gamma: float, conductance: Conductance
) -> Float32Array:
    """Diffuse an image edge-preservingly with zero-flux borders (Perona and Malik 1990, equations 7 and 8).

    Args:
        image: float32 (H, W); it is not changed.
        iterations: number of steps.
        kappa: in grey levels of the image.
        gamma: length of a step, stable up to 0.25.
        conductance: of a difference d, `exponential` for exp(-(d/kappa)^2) and `rational` for 1 / (1 + (d/kappa)^2).

    Returns:
        float32 (H, W) with the same sum, within the image's range.
    """
    result = np.array(image, np.float32, order="C")
    width = result.shape[1]
    # In the flat image both neighbours are a contiguous shift away; differences across the end of a row are set to 0.
    flat = result.reshape(-1)
    across, down = (np.empty(max(flat.size - step, 0), np.float32) for step in (1, width))
    buffer = np.empty_like(flat)
    for _ in range(iterations):
        np.subtract(flat[1:], flat[:-1], out=across)
        across[width - 1 :: width] = 0
        np.subtract(flat[width:], flat[:-width], out=down)
        for flux in (across, down):
            square = np.multiply(flux, flux, out=buffer[: flux.size])
            if conductance == "exponential":
                square *= np.float32(-1 / kappa**2)
                np.exp(square, out=square)
                square *= np.float32(gamma)
                np.multiply(flux, square, out=flux)
            else:  # gamma / (1 + d^2/kappa^2), arranged to one division
                square *= np.float32(1 / (gamma * kappa**2))
                square += np.float32(1 / gamma)
                np.divide(flux, square, out=flux)
        # Each flux leaves one pixel and enters its neighbour, which preserves the sum of intensities.
        flat[:-1] += across
        flat[1:] -= across
        flat[:-width] += down
        flat[width:] -= down
    return result


def diffuse_wrapped(grey: UInt8Array, *, iterations: int, kappa: float, gamma: float) -> UInt8Array:
    """Diffuse as the released code does: on [0, 1], with wrap-around borders, in float32 and a truncating cast.

    Source of the formula: Ninebell/GraysAnatomySAM, module/preprocess.py; the result is bit-exact on the goldens.
    Takes and returns uint8 (H, W); kappa is on the [0, 1] scale, gamma the length of a step.
    """
    diffused = np.empty_like(grey)
    rows = max(_CACHED_PIXELS // grey.shape[1], 4 * iterations)
    for top in range(0, len(grey), rows):
        bottom = min(top + rows, len(grey))
        # Each iteration depends on one more row, so the strip has a margin of `iterations` rows, which is dropped.
        strip = grey.take(range(top - iterations, bottom + iterations), axis=0, mode="wrap")
        diffused[top:bottom] = _diffuse_strip(strip, iterations, kappa, gamma)[iterations : iterations + bottom - top]
    return diffused


def _diffuse_strip(grey: UInt8Array, iterations: int, kappa: float, gamma: float) -> UInt8Array:
    image: Float32Array = grey.astype(np.float32)
    image /= 255
    for _ in range(iterations):
        # The southern flux is the negated northern one of the next row, exactly so in floating point; likewise the
        # eastern and western ones. The order of the additions is that of the original code.
        north, west = (_wrapped_flux(image, axis, kappa) for axis in (0, 1))
        total = north - np.roll(north, 1, axis=0)
        total -= np.roll(west, 1, axis=1)
        total += west
        total *= gamma
        image += total
    return (image * 255).astype(np.uint8)


def _wrapped_flux(image: Float32Array, axis: int, kappa: float) -> Float32Array:
    difference = np.roll(image, -1, axis=axis)
    difference -= image
    weight = difference / kappa
    weight *= weight
    np.negative(weight, out=weight)
    np.exp(weight, out=weight)
    difference *= weight
    return difference


def difference_percentile(grey: UInt8Array, percentile: float) -> float:
    """Return a percentile of the non-zero absolute differences of horizontal and vertical neighbours of uint8 (H, W).

    That is the smallest whole number of grey levels that at least `percentile` per cent of them do not exceed, 0.0
    where no neighbours differ.
    """
    counts = np.zeros(256, np.int64)
    for first, second in ((grey[:, 1:], grey[:, :-1]), (grey[1:], grey[:-1])):
        if first.size:
            difference = cv2.absdiff(first, second)
            counts += cv2.calcHist([difference], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    counts[0] = 0
    cumulated = np.cumsum(counts)
    if not cumulated[-1]:
        return 0.0
    return float(max(np.searchsorted(cumulated, cumulated[-1] * percentile / 100), 1))
