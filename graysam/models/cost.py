"""Parameters and multiply-accumulate operations of a model, and how many of them a quantization method reaches."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graysam.models.sam import Sam, inference_copy

PARTS = ("image_encoder", "heads")
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class LayerCost(NamedTuple):
    """A linear or convolutional layer: its part of the model, the elements of its weight, its MACs."""

    part: str
    weights: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """Parameters, and MACs of one image with one box: by part, and of each linear or convolutional layer by name."""

    parameters: dict[str, int]
    macs: dict[str, int]
    layers: dict[str, LayerCost]

    def quantized(self, names: Collection[str]) -> dict[str, dict[str, list[int]]]:
        """Count what is quantized where the named layers are.

        Returns:
            `{"layers"|"parameters"|"macs": {"image_encoder"|"heads": [quantized, total]}}`. layers: linear and
            convolutional ones. parameters: weights of quantized layers (their biases stay float32) of all parameters.
            macs: of all multiply-accumulates, attention's products included.
        """
        report: dict[str, dict[str, list[int]]] = {"layers": {}, "parameters": {}, "macs": {}}
        for part in PARTS:
            layers = [layer for name in names if (layer := self.layers[name]).part == part]
            report["layers"][part] = [len(layers), sum(layer.part == part for layer in self.layers.values())]
            report["parameters"][part] = [sum(layer.weights for layer in layers), self.parameters[part]]
            report["macs"][part] = [sum(layer.macs for layer in layers), self.macs[part]]
        return report


def count_parameters(module: nn.Module) -> int:
    """Return how many parameters a module has, frozen ones too; 0 without any."""
    return sum(parameter.numel() for parameter in module.parameters())


def measure_cost(model: Sam, size: int) -> Cost:
    """Count a model's parameters and the MACs of one image of (size, size) pixels with one box.

    A MAC is one multiplication with its addition in convolutions, transposed convolutions and matrix products
    (attention's included): half of the FLOPs of torch's counter. Normalization, activations, additions and resizing
    are not counted; ptflops counts them and gives slightly more.
    """
    model = inference_copy(model)
    # On a CPU the counter does not know fused attention; the math backend computes it as two products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size), torch.tensor([[[0.0, 0.0, size / 2, size / 2]]]))
    macs = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    root = type(model).__name__  # names are of the form Sam.image_encoder.norm
    encoder, encoder_macs = count_parameters(model.image_encoder), macs[f"{root}.image_encoder"]
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            part = "image_encoder" if name.startswith("image_encoder.") else "heads"
            # 0 MACs for a layer that box prompts never reach.
            layers[name] = LayerCost(part, module.weight.numel(), macs.get(f"{root}.{name}", 0))
    return Cost(
        parameters={"image_encoder": encoder, "heads": count_parameters(model) - encoder},
        macs={"image_encoder": encoder_macs, "heads": macs["Global"] - encoder_macs},
        layers=layers,
    )
