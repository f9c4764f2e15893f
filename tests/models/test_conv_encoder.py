"""graysam_s: its shapes and activations, the names of its weights, and its way through files."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file

from graysam.models.conv_encoder import Backbone, ConvPyramidEncoder
from graysam.models.cost import measure_cost
from graysam.models.registry import build_model, model_config, open_pretrained
from graysam.models.weights import load_embedding_norm, read_weights

SMALL: dict[str, Any] = {"backbone": "regnety_002", "width": 16, "depth": 1, "embedding_dim": 256}


@pytest.mark.parametrize("backbone", get_args(Backbone))
def test_every_backbone_gives_the_grid_of_stride_4_with_bounded_activations(backbone: Backbone) -> None:
    encoder = ConvPyramidEncoder(**{**SMALL, "backbone": backbone, "embedding_dim": 32}).eval()
    with torch.no_grad():
        embedding = encoder(torch.rand(2, 3, 64, 96))
        assert embedding.shape == (2, 32, 16, 24)
        refined = encoder.pyramid(encoder.backbone(torch.rand(1, 3, 64, 64)))
    assert refined.min() >= 0 and refined.max() <= 6
    kinds = {type(module).__name__ for module in encoder.modules()}
    assert "ReLU6" in kinds and not kinds & {"ReLU", "GELU", "SiLU", "Hardswish"}


def test_size_and_cost() -> None:
    cost = measure_cost(build_model("graysam_s"), 256)
    assert cost.parameters == {"image_encoder": 11_019_222, "heads": 4_064_560}
    assert cost.macs["image_encoder"] == pytest.approx(4.31e9, rel=0.01)


def test_a_file_of_another_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone 'hf-hub:x/y' is unknown; choose one of regnety_002, regnety_016,"):
        build_model("graysam_s", encoder={"backbone": "hf-hub:x/y"})


def test_it_is_recognised_by_its_keys_and_by_its_description(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = build_model("graysam_s").state_dict()
    path = tmp_path / "s.safetensors"
    save_file(state, path)
    found = open_pretrained(str(path))
    assert (found.numbers, found.size, found.scheme) == (model_config("graysam_s"), 256, None)
    assert all(torch.equal(value, state[key]) for key, value in found.model.state_dict().items())
    assert asdict(found.source)["layout"] == "graysam"


def test_its_scale_is_that_of_the_teacher_and_can_be_passed_on(tmp_path: Path) -> None:
    model = build_model("graysam_s", encoder=SMALL)
    teacher = read_weights("lite_medsam")
    load_embedding_norm(model, teacher)
    norm = model.image_encoder.embedding_norm
    assert torch.equal(norm.weight, teacher.tensors["image_encoder.neck.3.weight"])
    save_file(model.state_dict(), tmp_path / "s.safetensors")
    other = build_model("graysam_s", encoder=SMALL)
    load_embedding_norm(other, read_weights(str(tmp_path / "s.safetensors")))
    assert torch.equal(other.image_encoder.embedding_norm.bias, norm.bias)
