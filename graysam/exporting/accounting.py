"""What a quantization method really quantizes: layers, parameters and MACs of the encoder and the heads."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from graysam.exporting.decoder_graph import BoxDecoder
from graysam.exporting.encoder_graph import ImageEncoder
from graysam.exporting.torch_backend import inference_copy
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
        """Count the quantized layers, parameters and MACs.

        Args:
            quantized: names of layers.

        Returns:
            `{"layers"|"parameters"|"macs": {"image_encoder"|"heads": [quantized, total]}}`. layers: linear and
            convolutional ones. parameters: weights of quantized layers (their biases stay float32) of all parameters.
            macs: of all multiply-accumulates for one image with one box, attention's products included.

        Raises:
            ValueError: a name that is not a linear or convolutional layer of the model.
        """
        unknown = sorted(set(quantized) - self.layers.keys())
        if unknown:
            raise ValueError(f"not linear or convolutional layers of the model: {', '.join(unknown)}")
        report: dict[str, dict[str, list[int]]] = {"layers": {}, "parameters": {}, "macs": {}}
        for part in PARTS:
            layers = {name: layer for name, layer in self.layers.items() if layer.part == part}
            hit = [layer for name, layer in layers.items() if name in quantized]
            report["layers"][part] = [len(hit), len(layers)]
            report["parameters"][part] = [sum(layer.weights for layer in hit), self.cost.parameters[part]]
            report["macs"][part] = [sum(layer.macs for layer in hit), self.cost.macs[part]]
        return report


def account_for(model: Sam, size: int) -> Account:
    """Run one image of (size, size) pixels with one box through a copy of the model, and count each layer."""
    network = inference_copy(model)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, size, size), torch.tensor([[[0.0, 0.0, size / 2, size / 2]]]))
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    layers = {
        name: Layer(
            part=PARTS[0] if name.startswith("image_encoder.") else PARTS[1],
            weights=module.weight.numel(),
            macs=flops.get(f"{type(network).__name__}.{name}", 0) // 2,  # 0 for a layer that box prompts never reach
        )
        for name, module in network.named_modules()
        if isinstance(module, LAYERS)
    }
    return Account(layers, measure_cost(inference_copy(model), batch=1, boxes_per_image=1, size=size))


def graph_layers(model: Sam) -> frozenset[str]:
    """Return the names of the layers that the exported graphs of a model multiply with; box prompts skip the others."""
    used = {id(weight) for graph in (ImageEncoder(model), BoxDecoder(model)) for weight in graph.parameters()}
    return frozenset(
        name
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS) and (id(layer.weight) in used or name.startswith("mask_decoder.output_upscaling."))
    )


def traced_layers(model: Sam, paths: Collection[str]) -> frozenset[str]:
    """Return the names of the layers at paths in the traced `ImageEncoder`; a batch norm stands for its convolution."""
    modules, names = dict(model.named_modules()), set()
    for path in paths:
        name = path.replace("encoder.", "image_encoder.", 1).replace(".neck.neck.", ".neck.")
        names.add(name if isinstance(modules[name], LAYERS) else f"{name.rpartition('.')[0]}.conv")
    return frozenset(names)
