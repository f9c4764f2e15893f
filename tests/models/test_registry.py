"""Opening a trained model from any file that holds one: what it is, what it was trained on, and its weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from graysam.imaging.channels import load_scheme
from graysam.models.registry import model_config, open_pretrained
from graysam.models.weights import rename
from tests.support.commands import save_tiny_model
from tests.support.fill import official_state
from tests.support.tiny import tiny_numbers


def test_lite_medsam_has_its_own_channels() -> None:
    found = open_pretrained("lite_medsam")
    assert (found.size, found.scheme) == (256, load_scheme("replicate"))
    assert found.numbers == model_config("lite_medsam")
    assert sum(parameter.numel() for parameter in found.model.parameters()) == 9_791_300
    assert "verified as LiteMedSAM" in found.source.describe()
    assert found.source.parts == ["image_encoder", "prompt_encoder", "mask_decoder"]
    assert not any(module.training for module in found.model.modules())


def test_an_official_efficientvit_file_leaves_the_channels_open(goldens: Path, tmp_path: Path) -> None:
    state = official_state(goldens, "efficientvit_sam_l0")
    torch.save({"model": state}, tmp_path / "l0.pth")
    found = open_pretrained(str(tmp_path / "l0.pth"))
    assert (found.size, found.scheme) == (256, None)
    assert found.numbers == model_config("efficientvit_sam_l0")
    loaded = found.model.state_dict()
    assert all(torch.equal(loaded[rename(key, "efficientvit_sam")], value) for key, value in state.items())


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_our_files_describe_their_model(tmp_path: Path, suffix: str) -> None:
    found = open_pretrained(str(save_tiny_model(tmp_path / f"tiny{suffix}", "paper")))
    assert (found.size, found.scheme) == (256, load_scheme("paper"))
    assert found.numbers == tiny_numbers()
    assert not found.model.training
    state = torch.load(save_tiny_model(tmp_path / "same.ckpt"), weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[f"model.{key}"]) for key, value in found.model.state_dict().items())


@pytest.mark.parametrize(
    "description", [{"format": 1}, {"format": 1, "model": 3}, {"format": 1, "model": {}, "size": 1}]
)
def test_a_damaged_description_is_not_guessed(tmp_path: Path, description: Any) -> None:
    content = torch.load(save_tiny_model(tmp_path / "tiny.ckpt"), weights_only=True)
    torch.save({**content, "graysam": description}, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=r"damaged\.ckpt: its description of the model is damaged \("):
        open_pretrained(str(tmp_path / "damaged.ckpt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "efficientvit_sam_l3"}, "'efficientvit_sam_l3' is unknown; choose one of efficientvit_sam_l0,"),
        ({"name": "lite_medsam", "encoder": {"window_size": [7]}}, "encoder of lite_medsam: no number window_size;"),
    ],
)
def test_the_registry_refuses_unknown_names_and_numbers(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_config(**arguments)


def test_heads_alone_are_no_model(tmp_path: Path) -> None:
    torch.save({"image_encoder.blocks.0.x": torch.zeros(1)}, tmp_path / "medsam_vit_b.pth")
    with pytest.raises(ValueError, match="only give heads to training"):
        open_pretrained(str(tmp_path / "medsam_vit_b.pth"))
