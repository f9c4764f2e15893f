"""Channel schemes: how a grey medical image becomes the three channels of the network.

Source of the idea: Lee, Ku, Choi 2024, "Gray's Anatomy for Segment Anything Model": raw, diffused and
histogram-equalized channels. Every number is a field, and its value stands in `conf/channels/<name>.yaml`.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Stage = Literal["native", "resized", "padded"]
ColourPolicy = Literal["grey", "keep"]
Conductance = Literal["exponential", "rational"]
UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

# The released code's grey conversion; unlike OpenCV's 0.299, 0.587, 0.114 these sum to 0.9999.
_RELEASED_GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)

_CACHED_PIXELS = 1 << 16  # whose floats stay in a core's cache while an image goes by in strips of rows


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Base of all schemes: where the channels are built, and what becomes of colour.

    built_on: image the channels are built from in prediction: `native` (then resized), `resized`, or `padded`
    (after resizing and zero-padding, so that the padding enters the histogram).
    built_on_training: the same in training; it differs only in `released`, whose original did so.
    colour: `keep` passes an image whose channels differ through unchanged; `grey` turns it grey first.
    """

    built_on: Stage
    built_on_training: Stage
    colour: ColourPolicy

    def __post_init__(self) -> None:
        for field in ("built_on", "built_on_training"):
            _require_one_of(self, field, ("native", "resized", "padded"))
        _require_one_of(self, "colour", ("grey", "keep"))

    def stage(self, training: bool) -> Stage:
        """Return the image the channels are built from, in training or in prediction."""
        return self.built_on_training if training else self.built_on

    def __call__(self, image: UInt8Array) -> UInt8Array:
        """Build three channels.

        image: uint8 (H, W) grey or (H, W, 3) RGB, not empty. Returns uint8 (H, W, 3).
        Raises ValueError for another dtype or shape.
        """
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise ValueError(f"got {image.dtype} {image.shape}; a scheme takes uint8 (H, W) or (H, W, 3)")
        if not image.size:
            raise ValueError(f"got an empty image {image.shape}; at least one pixel is required")
        if image.ndim == 3:
            if _is_coloured(image):
                return image if self.colour == "keep" else self._from_colour(image)
            image = np.ascontiguousarray(image[..., 0])
        return self._from_grey(image)

    def _from_colour(self, image: UInt8Array) -> UInt8Array:
        return self._from_grey(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8))

    def _from_grey(self, grey: UInt8Array) -> UInt8Array:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Replicate(Scheme):
    """The grey image three times; LiteMedSAM's own preparation when colour is kept."""

    def _from_grey(self, grey: UInt8Array) -> UInt8Array:
        return _stack(grey, grey, grey)


@dataclass(frozen=True, kw_only=True)
class Released(Scheme):
    """Grey, diffused, equalized grey: bit-exact to the paper's released code, its faults included.

    The image is scaled to 0..255 by the minimum and maximum over all its channels, turned grey (weights
    0.2989, 0.5870, 0.1140, rounded) and diffused on [0, 1] with wrap-around borders and a truncating cast.
    With kappa 20 the conductance is never below 0.9975: the diffusion is a plain 5-point blur, not an
    edge-preserving one. A constant image, 0/0 in the original, gives zeros.
    """

    iterations: int
    kappa: float
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_diffusion_numbers(self.iterations, self.gamma, largest_gamma=None)
        _require_positive("kappa", self.kappa)

    def _from_grey(self, grey: UInt8Array) -> UInt8Array:
        levels = _min_max_levels(grey)
        # Three products and two roundings of their sum, as np.dot computes it for a grey image stored as RGB where its
        # BLAS does not fuse them; one that does (OpenBLAS on AVX-512) turns ties.
        red, green, blue = (levels * weight for weight in _RELEASED_GREY_WEIGHTS)
        lookup = red + green + blue
        return self._assemble(_lut(grey, np.round(lookup).astype(np.uint8)))

    def _from_colour(self, image: UInt8Array) -> UInt8Array:
        levels = _min_max_levels(image)
        grey = np.empty(image.shape[:2], np.uint8)
        rows = 32  # so few that the float64 temporaries stay in the cache
        for top in range(0, len(image), rows):
            channels = cv2.split(image[top : top + rows])
            total = np.zeros_like(channels[0], np.float64)
            for channel, weight in zip(channels, _RELEASED_GREY_WEIGHTS, strict=True):
                total += cv2.LUT(channel, levels * weight)
            grey[top : top + rows] = np.rint(total, out=total)
        return self._assemble(grey)

    def _assemble(self, grey: UInt8Array) -> UInt8Array:
        return _stack(grey, self._diffuse(grey), _equalize(grey))

    def _diffuse(self, grey: UInt8Array) -> UInt8Array:
        return diffuse_wrapped(grey, iterations=self.iterations, kappa=self.kappa, gamma=self.gamma)


@dataclass(frozen=True, kw_only=True)
class Paper(Released):
    """Grey, diffused, equalized *diffused*: the paper's wording with the released code's diffusion."""

    def _assemble(self, grey: UInt8Array) -> UInt8Array:
        diffused = self._diffuse(grey)
        return _stack(grey, diffused, _equalize(diffused))


@dataclass(frozen=True, kw_only=True)
class PeronaMalik(Scheme):
    """Grey, edge-preserving diffusion, equalized diffused image.

    The grey image is stretched to 0..255 first, because the canvas normalizes the three channels together.
    kappa is on the image's own scale: `kappa_factor` times the `kappa_percentile`-th percentile of the
    non-zero absolute differences of neighbouring pixels. Perona and Malik 1990 take the 90th percentile of
    all gradients, as Canny's noise estimate; zero ones are left out here, so that a wide black background
    does not push kappa down. A constant image gives zeros.
    """

    iterations: int
    gamma: float
    conductance: Conductance
    kappa_percentile: float
    kappa_factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_diffusion_numbers(self.iterations, self.gamma, largest_gamma=0.25)
        _require_one_of(self, "conductance", ("exponential", "rational"))
        _require_positive("kappa_factor", self.kappa_factor)
        _require_positive("kappa_percentile", self.kappa_percentile)
        if self.kappa_percentile > 100:
            raise ValueError(f"kappa_percentile is {self.kappa_percentile}; it must not exceed 100")

    def _from_grey(self, grey: UInt8Array) -> UInt8Array:
        stretched = _lut(grey, np.rint(_min_max_levels(grey)).astype(np.uint8))
        kappa = self.kappa_factor * difference_percentile(stretched, self.kappa_percentile)
        diffused = stretched
        if kappa > 0:  # zero only for a constant image, which has nothing to diffuse
            smooth = diffuse(
                stretched.astype(np.float32),
                iterations=self.iterations, kappa=kappa, gamma=self.gamma, conductance=self.conductance,
            )  # fmt: skip
            diffused = np.rint(smooth, out=smooth).astype(np.uint8)
        return _stack(stretched, diffused, _equalize(diffused))


def diffuse(
    image: Float32Array, *, iterations: int, kappa: float, gamma: float, conductance: Conductance
) -> Float32Array:
    """Diffuse an image edge-preservingly with zero-flux borders (Perona and Malik 1990, equations 7 and 8).

    image: float32 (H, W); it is not changed. kappa: in the image's grey levels. gamma: step in time, stable
    up to 0.25. conductance: that of a difference d is exp(-(d/kappa)^2) if `exponential`, and
    1 / (1 + (d/kappa)^2) if `rational`.
    Returns float32 (H, W) with the same sum and within the image's range.
    """
    result = np.array(image, np.float32, order="C")
    width = result.shape[1]
    # On the flat image both neighbours are one contiguous shift away; only where a row ends there is none.
    flat = result.reshape(-1)
    across, down = (
        np.empty(max(flat.size - 1, 0), np.float32),
        np.empty(max(flat.size - width, 0), np.float32),
    )
    weight = np.empty_like(flat)
    for _ in range(iterations):
        np.subtract(flat[1:], flat[:-1], out=across)
        across[width - 1 :: width] = 0
        np.subtract(flat[width:], flat[:-width], out=down)
        for flux in (across, down):
            _scale_by_conductance(flux, weight[: flux.size], kappa, gamma, conductance)
        # What leaves one pixel enters its neighbour, so the sum of intensities stays.
        flat[:-1] += across
        flat[1:] -= across
        flat[:-width] += down
        flat[width:] -= down
    return result


def _scale_by_conductance(
    difference: Float32Array, weight: Float32Array, kappa: float, gamma: float, conductance: Conductance
) -> None:
    """Turn differences into fluxes of one step in place; `weight` is a buffer of the same size."""
    np.multiply(difference, difference, out=weight)
    if conductance == "exponential":
        weight *= np.float32(-1 / kappa**2)
        np.exp(weight, out=weight)
        weight *= np.float32(gamma)
        difference *= weight
    else:  # gamma / (1 + d^2/kappa^2), arranged to one division
        weight *= np.float32(1 / (gamma * kappa**2))
        weight += np.float32(1 / gamma)
        difference /= weight


def diffuse_wrapped(grey: UInt8Array, *, iterations: int, kappa: float, gamma: float) -> UInt8Array:
    """Diffuse as the released code does: on [0, 1], wrap-around borders, float32, truncating cast.

    grey: uint8 (H, W). kappa: on the [0, 1] scale. Returns uint8 (H, W).
    Source: Ninebell/GraysAnatomySAM, module/preprocess.py (the formula; bit-exact on the goldens).
    """
    diffused = np.empty_like(grey)
    rows = max(_CACHED_PIXELS // grey.shape[1], 4 * iterations)
    for top in range(0, len(grey), rows):
        bottom = min(top + rows, len(grey))
        # An iteration reaches one row further, so what goes wrong at a strip's own ends stays outside of top..bottom.
        strip = grey.take(range(top - iterations, bottom + iterations), axis=0, mode="wrap")
        diffused[top:bottom] = _diffuse_strip(strip, iterations, kappa, gamma)[iterations : iterations + bottom - top]
    return diffused


def _diffuse_strip(grey: UInt8Array, iterations: int, kappa: float, gamma: float) -> UInt8Array:
    image: Float32Array = grey.astype(np.float32)
    image /= 255
    for _ in range(iterations):
        # The southern flux is the northern one of the row before with its sign turned, exactly so in floating
        # point; likewise the eastern and western ones. The order of the additions is the original's.
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
    """Return a percentile of the non-zero absolute differences of horizontal and vertical neighbours.

    grey: uint8 (H, W). Returns grey levels (a whole number, the smallest that at least `percentile` per cent
    of the differences do not exceed), 0.0 when no neighbours differ.
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


def _is_coloured(image: UInt8Array) -> bool:
    rows = max(_CACHED_PIXELS // image.shape[1], 1)
    for top in range(0, len(image), rows):  # colour mostly shows at once
        red, green, blue = cv2.split(image[top : top + rows])
        if not (np.array_equal(red, green) and np.array_equal(green, blue)):
            return True
    return False


def _min_max_levels(image: UInt8Array) -> npt.NDArray[np.float64]:
    """Map each of the 256 levels to 0..255 by the image's minimum and maximum; a constant image maps to 0."""
    low, high = int(image.min()), int(image.max())
    if low == high:
        return np.zeros(256)
    return (np.arange(256).clip(low, high) - low) / (high - low) * 255


def _equalize(grey: UInt8Array) -> UInt8Array:
    return np.asarray(cv2.equalizeHist(grey), np.uint8)


def _lut(image: UInt8Array, levels: UInt8Array) -> UInt8Array:
    return np.asarray(cv2.LUT(image, levels), np.uint8)


def _stack(*channels: UInt8Array) -> UInt8Array:
    return np.asarray(cv2.merge(channels), np.uint8)


def _require_one_of(scheme: Scheme, field: str, allowed: tuple[str, ...]) -> None:
    value = getattr(scheme, field)
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}; it must be one of {', '.join(allowed)}")


def _require_positive(field: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{field} is {value!r}; it must be a number above 0")


def _require_diffusion_numbers(iterations: int, gamma: float, largest_gamma: float | None) -> None:
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations is {iterations!r}; it must be a whole number of at least 1")
    _require_positive("gamma", gamma)
    if largest_gamma is not None and gamma > largest_gamma:
        raise ValueError(f"gamma is {gamma}; above {largest_gamma} the diffusion is unstable")
