"""The model's size beside the paper's: 34.79M parameters, 602G MACs for a batch of 32 (table 3)."""

import pytest

from graysam.exporting.accounting import account_for
from graysam.models.cost import measure_cost
from graysam.models.registry import build_model


def test_macs_of_the_papers_batch() -> None:
    model = build_model("efficientvit_sam_l0")
    cost = measure_cost(model, batch=2, boxes_per_image=1, size=256)
    assert cost.total_parameters == 34_792_784
    # ptflops counts 18.815 GMAC an image; it adds normalization and activations, which are not counted here
    assert 0.99 < cost.total_macs / 2 / 18.815e9 < 1
    assert 16 * cost.total_macs == pytest.approx(602e9, rel=0.01)
    assert model.training


def test_macs_of_a_convolution_by_hand() -> None:
    """The lateral of stride 32: a 1x1 convolution of 512 to 256 channels on 8x8 cells."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model("efficientvit_sam_l0")
    import torch

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.image_encoder.neck.laterals[0].conv(torch.zeros(1, 512, 8, 8))
    assert counter.get_total_flops() // 2 == 512 * 256 * 8 * 8


def test_attentions_products_are_counted() -> None:
    """By hand, for one box: 7 tokens (IoU, 4 masks, 2 corners) and 64x64 cells, two products each.

    Tokens among themselves in both blocks, 256 wide; tokens to cells and back in both, tokens to cells at the end, 128
    wide. Beside that and the layers there is one product more: a mask's 32 weights with 256x256 cells.
    """
    model = build_model("efficientvit_sam_l0")
    layers = account_for(model, 256).layers
    heads = sum(layer.macs for name, layer in layers.items() if not name.startswith("image_encoder"))
    attention = 2 * 2 * 7 * 7 * 256 + 5 * 2 * 7 * 64 * 64 * 128
    cost = measure_cost(model, batch=1, boxes_per_image=1, size=256)
    assert cost.macs["heads"] - heads == attention + 32 * 256 * 256
