"""What a kind really quantizes: layers, parameters and MACs, each beside its total, for encoder and heads."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graysam.exporting.method import private_copy
from graysam.models.cost import Cost, measure_cost
from graysam.models.sam import Sam

PARTS = ("image_encoder", "heads")
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Layer:
    """A linear or convolutional layer: its part, the elements of its weight, its MACs for one image with one box."""

    part: str
    weights: int
    macs: int


@dataclass(frozen=True)
class Account:
    """The layers of a model by name, and the cost of its parts."""

    layers: dict[str, Layer]
    cost: Cost

    def of(self, quantized: Collection[str]) -> dict[str, dict[str, list[int]]]:
        """Return `{"layers"|"parameters"|"macs": {"image_encoder"|"heads": [quantized, total]}}`.

        layers: linear and convolutional ones. parameters: weights of quantized layers (their biases stay float32) of
        all parameters. macs: of all multiply-accumulates for one image with one box, attention's products included.

        Raises:
            ValueError: a name that is no linear or convolutional layer of the model.
        """
        strangers = sorted(set(quantized) - self.layers.keys())
        if strangers:
            raise ValueError(f"no linear or convolutional layers of the model: {', '.join(strangers)}")
        report: dict[str, dict[str, list[int]]] = {"layers": {}, "parameters": {}, "macs": {}}
        for part in PARTS:
            own = {name: layer for name, layer in self.layers.items() if layer.part == part}
            hit = [layer for name, layer in own.items() if name in quantized]
            report["layers"][part] = [len(hit), len(own)]
            report["parameters"][part] = [sum(layer.weights for layer in hit), self.cost.parameters[part]]
            report["macs"][part] = [sum(layer.macs for layer in hit), self.cost.macs[part]]
        return report


def _macs(layer: nn.Module, given: Tensor, result: Tensor) -> int:
    """Return a call's multiply-accumulates, counted as `graysam.models.cost` counts them."""
    if isinstance(layer, nn.Linear):
        return result.numel() * layer.in_features
    weight: Any = layer.weight
    per_pixel = weight[0].numel()  # of an output pixel; of an input pixel where the convolution is transposed
    return (given if isinstance(layer, nn.ConvTranspose2d) else result).numel() * per_pixel


def account_for(model: Sam, size: int) -> Account:
    """Run one image of (size, size) pixels with one box through a copy of the model, and count."""
    network = private_copy(model)
    macs: dict[str, int] = {}

    def counter(name: str) -> Any:
        def count(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            macs[name] = macs.get(name, 0) + _macs(layer, given[0], result)

        return count

    layers = {name: module for name, module in network.named_modules() if isinstance(module, LAYERS)}
    for name, module in layers.items():
        module.register_forward_hook(counter(name))
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size), torch.tensor([[[0.0, 0.0, size / 2, size / 2]]]))
    return Account(
        layers={
            name: Layer(
                part=PARTS[0] if name.startswith("image_encoder.") else PARTS[1],
                weights=module.weight.numel(),
                macs=macs.get(name, 0),  # box prompts never reach some
            )
            for name, module in layers.items()
        },
        cost=measure_cost(private_copy(model), batch=1, boxes_per_image=1, size=size),
    )
