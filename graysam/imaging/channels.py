"""Channel schemes, which turn a grey medical image into the three channels of the network.

Source: Lee, Ku, Choi 2024, "Gray's Anatomy for Segment Anything Model": raw, diffused and histogram-equalized channels.
The presets are the files of `conf/channels`, which Hydra composes in training and PyYAML reads everywhere else.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from graysam.imaging.diffusion import Conductance, difference_percentile, diffuse, diffuse_wrapped
from graysam.system.environment import preset_names, read_preset

Stage = Literal["native", "resized", "padded"]
ColourPolicy = Literal["grey", "keep"]
UInt8Array = npt.NDArray[np.uint8]

# The released code's grey conversion; unlike OpenCV's 0.299, 0.587, 0.114 these sum to 0.9999.
_RELEASED_GREY_WEIGHTS = (0.2989, 0.5870, 0.1140)

_CACHED_PIXELS = 1 << 16  # pixels of a strip of rows that fit into a core's cache


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Base of all schemes.

    Attributes:
        built_on: image that the channels are built from in prediction: `native` (resized afterwards), `resized`, or
            `padded` (resized and zero-padded, so that the padding enters the histogram).
        built_on_training: the same in training; another one only in `released`, as in the original code.
        colour: `keep` returns a colour image unchanged, `grey` converts it to grey first.
    """

    built_on: Stage
    built_on_training: Stage
    colour: ColourPolicy

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), get_args(field.type)
            if choices and value not in choices:
                raise ValueError(f"{field.name} is {value!r}; choose one of {', '.join(choices)}")
            if not choices and (type(value) not in (int, field.type) or not 0 < value < math.inf):
                number = "whole number" if field.type is int else "number"
                raise ValueError(f"{field.name} is {value!r}; required: a {number} above 0")

    def __call__(self, image: UInt8Array) -> UInt8Array:
        """Build three channels, uint8 (H, W, 3), of uint8 (H, W) or RGB (H, W, 3), not empty."""
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
    """The grey image three times; with colour kept, LiteMedSAM's own preparation."""

    def _from_grey(self, grey: UInt8Array) -> UInt8Array:
        return _stack(grey, grey, grey)


@dataclass(frozen=True, kw_only=True)
class Released(Scheme):
    """Grey, diffused, equalized grey: bit-exact with the paper's released code.

    The image is scaled to 0..255 by the minimum and maximum over all its channels, converted to grey (weights 0.2989,
    0.5870, 0.1140, rounded) and diffused on [0, 1] with wrap-around borders and a truncating cast. With kappa 20 the
    conductance is never below 0.9975: the diffusion is a plain 5-point blur and does not preserve edges. A constant
    image, 0/0 in the original, gives zeros.
    """

    iterations: int
    kappa: float
    gamma: float

    def _from_grey(self, grey: UInt8Array) -> UInt8Array:
        levels = _min_max_levels(grey)
        # Three products and two roundings of their sum, as np.dot computes it for a grey image stored as RGB. A BLAS
        # with fused operations (OpenBLAS on AVX-512) rounds ties differently.
        red, green, blue = (levels * weight for weight in _RELEASED_GREY_WEIGHTS)
        lookup = red + green + blue
        return self._assemble(_lut(grey, np.round(lookup).astype(np.uint8)))

    def _from_colour(self, image: UInt8Array) -> UInt8Array:
        levels = _min_max_levels(image)
        grey = np.empty(image.shape[:2], np.uint8)
        rows = 32  # the float64 temporaries fit into the cache
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
    """Grey, diffused, equalized *diffused*: as in the paper's text, with the released code's diffusion."""

    def _assemble(self, grey: UInt8Array) -> UInt8Array:
        diffused = self._diffuse(grey)
        return _stack(grey, diffused, _equalize(diffused))


@dataclass(frozen=True, kw_only=True)
class PeronaMalik(Scheme):
    """Grey, edge-preserving diffusion, equalized diffused image.

    The grey image is stretched to 0..255 first, because the canvas normalizes the three channels together. kappa is on
    the image's own scale: `kappa_factor` times the `kappa_percentile`-th percentile of the non-zero absolute
    differences between neighbouring pixels. Perona and Malik 1990 use the 90th percentile of all gradients, as in
    Canny's noise estimate; zeros are excluded here, so that a large black background does not lower kappa. A constant
    image gives zeros.
    """

    iterations: int
    gamma: float
    conductance: Conductance
    kappa_percentile: float
    kappa_factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, limit in (("gamma", 0.25), ("kappa_percentile", 100)):  # diffusion is stable up to 0.25
            if getattr(self, name) > limit:
                raise ValueError(f"{name} is {getattr(self, name)}; required: at most {limit}")

    def _from_grey(self, grey: UInt8Array) -> UInt8Array:
        stretched = _lut(grey, np.rint(_min_max_levels(grey)).astype(np.uint8))
        kappa = self.kappa_factor * difference_percentile(stretched, self.kappa_percentile)
        diffused = stretched
        if kappa > 0:  # zero only for a constant image
            floats = stretched.astype(np.float32)
            smooth = diffuse(
                floats, iterations=self.iterations, kappa=kappa, gamma=self.gamma, conductance=self.conductance
            )
            diffused = np.rint(smooth, out=smooth).astype(np.uint8)
        return _stack(stretched, diffused, _equalize(diffused))


_SCHEMES: dict[str, type[Scheme]] = {
    "replicate": Replicate,
    "paper": Paper,
    "released": Released,
    "perona_malik": PeronaMalik,
}


def scheme_names() -> list[str]:
    """Return the names `load_scheme` takes, sorted."""
    return preset_names("channels")


def load_scheme(name: str, **overrides: Any) -> Scheme:
    """Build the scheme of `conf/channels/<name>.yaml`, with single parameters replaced.

    Raises:
        ValueError: an unknown name (the message lists the valid ones), parameter or value.
    """
    if name not in scheme_names():
        raise ValueError(f"unknown channel scheme {name!r}; choose one of {', '.join(scheme_names())}")
    parameters = read_preset("channels", name)
    target = parameters.pop("_target_").rpartition(".")[2]
    (kind,) = (kind for kind, scheme_type in _SCHEMES.items() if scheme_type.__name__ == target)
    return scheme_from_dict({"name": kind, "params": {**parameters, **overrides}})


def scheme_to_dict(scheme: Scheme) -> dict[str, Any]:
    """Return `{"name": ..., "params": {field: value}}` of plain values, for a checkpoint or an exported model."""
    names = {scheme_type: name for name, scheme_type in _SCHEMES.items()}
    return {"name": names[type(scheme)], "params": dataclasses.asdict(scheme)}


def scheme_from_dict(stored: dict[str, Any]) -> Scheme:
    """Build a scheme from the result of `scheme_to_dict`.

    Raises:
        ValueError: an unknown name, or missing, unknown or invalid parameters.
    """
    try:
        if stored["name"] not in _SCHEMES:
            raise ValueError(f"unknown channel scheme {stored['name']!r}; choose one of {', '.join(_SCHEMES)}")
        return _SCHEMES[stored["name"]](**stored["params"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{stored!r} is not a channel scheme: {error}") from error


def _is_coloured(image: UInt8Array) -> bool:
    rows = max(_CACHED_PIXELS // image.shape[1], 1)
    for top in range(0, len(image), rows):  # the first strip usually decides
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
