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


def test_attentions_products_are_counted() -> None:
    """By hand, for one box: 7 tokens (IoU, 4 masks, 2 corners) and 64x64 embedding tokens, two products each.

    Self-attention of the tokens in both blocks, 256 wide; cross-attention with the embedding in both directions in
    both blocks, and once at the end, 128 wide. One further product: a mask's 32 weights with 256x256 pixels.
    """
    model = build_model("efficientvit_sam_l0")
    layers = account_for(model, 256).layers
    heads = sum(layer.macs for name, layer in layers.items() if not name.startswith("image_encoder"))
    attention = 2 * 2 * 7 * 7 * 256 + 5 * 2 * 7 * 64 * 64 * 128
    cost = measure_cost(model, batch=1, boxes_per_image=1, size=256)
    assert cost.macs["heads"] - heads == attention + 32 * 256 * 256
