"""graysam: box-prompted medical image segmentation, trained in PyTorch and run on a laptop's CPU."""

import importlib

TYPE_CHECKING = False  # as in typing, whose import takes longer than the rest of this file
if TYPE_CHECKING:
    from graysam.inference.predictor import Predictor as Predictor
    from graysam.io.image import read_image as read_image
    from graysam.io.image import write_mask as write_mask

    __version__: str

__all__ = ["Predictor", "__version__", "read_image", "write_mask"]

_LAZY = {"Predictor": "inference.predictor", "read_image": "io.image", "write_mask": "io.image"}


def __getattr__(name: str) -> object:
    """Import a public name on its first use, so that `import graysam` costs nothing."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("graysam")
    if name in _LAZY:
        return getattr(importlib.import_module(f"graysam.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'graysam' has no attribute {name!r}")
