"""What a kind of numbers is: whether it can run here, how a Sam is prepared in it, and how another process opens it."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graysam.imaging.channels import Scheme
from graysam.inference.volume import Backend
from graysam.models.sam import Sam


@dataclass(frozen=True)
class Workplace:
    """What is there for preparing a kind.

    folder: the kind's own, empty or not there yet; what it stores must stay for as long as the kind is used.
    size: side S of the model's square input in pixels; scheme: the channels it was trained on.
    calibration_images: gives prepared training images, float32 (3,S,S); reading them takes time, so ask when needed.
    """

    folder: Path
    size: int
    scheme: Scheme
    calibration_images: Callable[[], Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class Prepared:
    """A network ready to run.

    backend: its `encode` and `decode`; quantized_layers: names, in the given Sam, of the layers that really compute in
    lower precision; saved_bytes: what its weights take as files.
    """

    backend: Backend
    quantized_layers: frozenset[str]
    saved_bytes: int


@dataclass(frozen=True)
class Kind:
    """A way to run a Sam.

    why_unavailable: gives the reason in one line why this kind cannot run here, None where it can; prepare: takes a
    Sam on the CPU in float32 and leaves it as it is; reopen: gives the same network in another process, with a number
    of threads, from that Sam or from the folder in which `prepare` stored what took long to make.
    """

    name: str
    why_unavailable: Callable[[], str | None]
    prepare: Callable[[Sam, Workplace], Prepared]
    reopen: Callable[[Sam, Path, int], Backend]


def private_copy(model: Sam) -> Sam:
    """Return a copy in evaluation mode, on the CPU, without gradients.

    TinyViT keeps attention biases from its first evaluation. They are left out of the copy: they may be older than the
    weights, and where they carry a gradient they cannot be copied.
    """
    caches = [getattr(module, "attention_bias_cache", None) for module in model.modules()]
    fresh: dict[int, Any] = {id(cache): {} for cache in caches if cache is not None}
    return copy.deepcopy(model, fresh).cpu().eval().requires_grad_(False)
