"""Which layers of a Sam the products of an engine's graph are: told by their weights.

Converters give nodes names of their own wherever they fold a batch norm or a scale into the weights, and
`graysam.exporting.decoder_graph` uses some weights transposed. What stays is the direction of every output channel's
weights.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graysam.exporting.decoder_graph import CellUpscaling
from graysam.models.sam import Sam

AnyArray = NDArray[Any]
_PARALLEL = 1 - 1e-4  # least cosine; float16's rounding costs 1e-7
UPSCALING = "mask_decoder.output_upscaling"


def trace_layers(model: Sam, products: Mapping[str, AnyArray]) -> dict[str, str | None]:
    """Return each product's layer.

    Args:
        model: the Sam that a graph was made of.
        products: names of nodes, in the order of computation, with the constant they multiply with: a matrix either
            way round, or convolutions' weights with their output channels first.

    Returns:
        For every product the name of a Linear, Conv2d or ConvTranspose2d; None for a product with something else than
        a layer's weights, such as a matrix that upsamples. A layer is one product's at most.
    """
    layers = dict(_layers(model))
    found: dict[str, str | None] = {}
    for product, constant in products.items():
        rows = constant.reshape(len(constant), -1).astype(np.float32)
        ways = (rows, rows.T) if constant.ndim == 2 else (rows,)
        same = (name for name, weights in layers.items() if any(_parallel(weights, way) for way in ways))
        found[product] = next(same, None)
        layers.pop(found[product] or "", None)
    return found


def _layers(model: Sam) -> Iterator[tuple[str, AnyArray]]:
    """Yield layers with their weights as rows, one an output channel."""
    upscaling: Any = model.get_submodule(UPSCALING)
    cells = CellUpscaling(upscaling)
    products = {f"{UPSCALING}.0": cells.first, f"{UPSCALING}.3": cells.second}
    for name, module in model.named_modules():
        if name in products:
            yield name, products[name].detach().T.numpy()
        elif isinstance(module, nn.Linear | nn.Conv2d):
            yield name, module.weight.detach().to("cpu", torch.float32).flatten(1).numpy()


def _parallel(weights: AnyArray, rows: AnyArray) -> bool:
    """Say whether rows point the same way, or the opposite; a row of zeros has no direction and fits any."""
    if weights.shape != rows.shape:
        return False
    lengths = np.linalg.norm(weights, axis=1) * np.linalg.norm(rows, axis=1)
    return bool((np.abs((weights * rows).sum(axis=1)) >= _PARALLEL * lengths).all())
