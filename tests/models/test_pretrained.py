"""Opening a trained model from any file that holds one: what it is, what it was trained on, and its weights."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from graysam.config.composing import load_group
from graysam.imaging.presets import load_scheme
from graysam.models.key_maps import rename
from graysam.models.pretrained import open_pretrained
from tests.support.commands import save_tiny_model
from tests.support.fill import official_state

OFFICIAL = partial(load_group, "model")


def test_lite_medsam_has_its_own_channels() -> None:
    found = open_pretrained("lite_medsam", OFFICIAL)
    assert (found.size, found.scheme) == (256, load_scheme("replicate"))
    assert found.numbers == load_group("model", "lite_medsam")
    assert sum(parameter.numel() for parameter in found.model.parameters()) == 9_791_300
    assert found.source.known_as is not None
    assert found.source.parts == ("image_encoder", "prompt_encoder", "mask_decoder")
    assert not any(module.training for module in found.model.modules())


def test_an_official_efficientvit_file_leaves_the_channels_open(goldens: Path, tmp_path: Path) -> None:
    state = official_state(goldens, "efficientvit_sam_l0")
    torch.save({"model": state}, tmp_path / "l0.pth")
    found = open_pretrained(str(tmp_path / "l0.pth"), OFFICIAL)
    assert (found.size, found.scheme) == (256, None)
    assert found.numbers == load_group("model", "efficientvit_sam_l0")
    loaded = found.model.state_dict()
    assert all(torch.equal(loaded[rename(key, "efficientvit_sam")], value) for key, value in state.items())


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("official_numbers", [None, OFFICIAL])
def test_our_files_say_all_themselves(tmp_path: Path, suffix: str, official_numbers: Any) -> None:
    found = open_pretrained(str(save_tiny_model(tmp_path / f"tiny{suffix}", "paper")), official_numbers)
    assert (found.size, found.scheme) == (256, load_scheme("paper"))
    assert found.numbers["name"] == "tiny"
    assert not found.model.training
    state = torch.load(save_tiny_model(tmp_path / "same.ckpt"), weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[f"model.{key}"]) for key, value in found.model.state_dict().items())


@pytest.mark.parametrize(
    "description", [{"format": 1}, {"format": 1, "model": 3}, {"format": 1, "model": {}, "size": 1}]
)
def test_a_damaged_description_is_not_guessed(tmp_path: Path, description: Any) -> None:
    content = torch.load(save_tiny_model(tmp_path / "tiny.ckpt"), weights_only=True)
    torch.save({**content, "graysam": description}, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=r"damaged\.ckpt: the description graysam stored in it is damaged \("):
        open_pretrained(str(tmp_path / "damaged.ckpt"), OFFICIAL)


def test_official_files_are_refused_where_a_description_is_needed() -> None:
    with pytest.raises(ValueError, match="lite_medsam does not describe its model; give a checkpoint of graysam"):
        open_pretrained("lite_medsam")


def test_heads_alone_are_no_model(goldens: Path, tmp_path: Path) -> None:
    torch.save(official_state(goldens, "medsam_vit_b"), tmp_path / "medsam_vit_b.pth")
    with pytest.raises(ValueError, match="only give heads to training"):
        open_pretrained(str(tmp_path / "medsam_vit_b.pth"), OFFICIAL)
