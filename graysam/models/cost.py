"""Parameters and multiply-accumulate operations of a model."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from graysam.models.sam import Sam


@dataclass(frozen=True)
class Cost:
    """Parameters, and MACs of one forward pass, in all and by part."""

    parameters: dict[str, int]
    macs: dict[str, int]

    @property
    def total_parameters(self) -> int:
        """Parameters of all parts."""
        return sum(self.parameters.values())

    @property
    def total_macs(self) -> int:
        """MACs of all parts."""
        return sum(self.macs.values())


def count_parameters(module: nn.Module) -> int:
    """Return how many parameters a module has, frozen ones too; 0 without any."""
    return sum(parameter.numel() for parameter in module.parameters())


def measure_cost(model: Sam, *, batch: int, boxes_per_image: int, size: int) -> Cost:
    """Count a model's parameters and the MACs of one forward pass.

    A MAC is one multiplication with its addition in convolutions, transposed convolutions and matrix products
    (attention's included): half of the FLOPs of torch's counter. Normalization, activations, additions and resizing
    are not counted; ptflops counts them and gives slightly more.

    Args:
        model: any Sam; it is not changed.
        batch: images.
        boxes_per_image: prompts on each.
        size: side of the square input in pixels.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)  # the counter's hooks fail on leaves with gradient
    device = next(model.parameters()).device
    images = torch.zeros(batch, 3, size, size, device=device)
    boxes = torch.tensor([0.0, 0.0, size / 2, size / 2], device=device).expand(batch, boxes_per_image, 4)
    macs = {}
    # On a CPU the counter does not know fused attention; the math backend computes it as two products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            embedding = model.encode(images)
        macs["image_encoder"] = counter.get_total_flops() // 2
        with FlopCounterMode(display=False) as counter:
            model.decode(embedding, boxes)
        macs["heads"] = counter.get_total_flops() // 2
    heads = count_parameters(model.prompt_encoder) + count_parameters(model.mask_decoder)
    return Cost(parameters={"image_encoder": count_parameters(model.image_encoder), "heads": heads}, macs=macs)
