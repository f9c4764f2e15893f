"""The model's size beside the paper's: 34.79M parameters, 602G MACs for a batch of 32 (table 3)."""

import pytest

from graysam.models.cost import measure_cost
from graysam.models.registry import build_model


def test_parameters_and_macs_of_the_papers_model() -> None:
    """Attention's products by hand, for one box: 7 tokens (IoU, 4 masks, 2 corners) and 64x64 embedding tokens.

    Two products each: self-attention of the tokens in both blocks, 256 wide; cross-attention with the embedding in
    both directions in both blocks, and once at the end, 128 wide. One further product: a mask's 32 weights with
    256x256 pixels.
    """
    model = build_model("efficientvit_sam_l0")
    cost = measure_cost(model, 256)
    macs = sum(cost.macs.values())
    assert sum(cost.parameters.values()) == 34_792_784
    # ptflops counts 18.815 GMAC an image; it adds normalization and activations, which are not counted here
    assert 0.99 < macs / 18.815e9 < 1
    assert 32 * macs == pytest.approx(602e9, rel=0.01)
    assert model.training
    layers = sum(layer.macs for layer in cost.layers.values() if layer.part == "heads")
    assert cost.macs["heads"] - layers == 2 * 2 * 7 * 7 * 256 + 5 * 2 * 7 * 64 * 64 * 128 + 32 * 256 * 256
