"""Weights in float16: half the size, the same description, and nothing that a stranger need not know."""

from pathlib import Path

import pytest
import torch
from torch import nn

import graysam.export
from graysam.models import weights
from graysam.models.half_precision import half, save_half
from graysam.models.weights import METADATA_KEY, WeightFile, WeightSource, read_weights
from graysam.system.files import sha256_of
from tests.support.commands import save_tiny_model


def checkpoint(path: Path) -> Path:
    """Store a tiny model as a Lightning checkpoint that began with files in somebody's folder."""
    file = read_weights(str(save_tiny_model(path.with_suffix(".safetensors"), channels="perona_malik")))
    description = {**(file.metadata or {}), "weights": [{"path": "/home/somebody/start.pth", "sha256": "ab"}]}
    state = {f"model.{key}": value for key, value in file.tensors.items()}
    torch.save({"state_dict": state, METADATA_KEY: description}, path)
    return path


def test_matrices_are_halved_and_vectors_are_not() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).state_dict()
    halves = half(layers)
    assert halves["0.weight"].dtype == torch.float16
    assert halves["1.running_var"].dtype == halves["0.bias"].dtype == torch.float32
    assert halves["1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(halves["0.weight"], layers["0.weight"].half())


def test_what_float16_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"cannot be stored in float16: too\.large; keep the checkpoint"):
        half({"fine": torch.ones(2, 2), "too.large": torch.full((2, 2), 70000.0)})
    with pytest.raises(ValueError, match="broken"):
        half({"broken": torch.tensor([float("nan")])})


def test_a_checkpoint_is_stored_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path / "best.ckpt")
    target = tmp_path / "out" / "own.safetensors"
    assert graysam.export.main([str(path), "-o", str(target), "--kind", "weights"]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: ")
    before, after = read_weights(str(path)), read_weights(str(target))
    assert before.tensors.keys() == after.tensors.keys()
    for key, value in before.tensors.items():
        torch.testing.assert_close(after.tensors[key], value, rtol=1e-3, atol=1e-7)
    assert target.stat().st_size < 0.6 * path.stat().st_size
    assert after.metadata is not None and before.metadata is not None
    assert after.metadata["weights"] == [{"path": "start.pth", "sha256": "ab"}]
    assert after.metadata["made_from"] == {"sha256": sha256_of(path)}
    assert after.metadata["model"] == before.metadata["model"]
    assert after.metadata["channels"] == before.metadata["channels"]


@pytest.mark.parametrize(
    ("model", "output", "reason"),
    [
        ("best.ckpt", "folder", "-o folder holds weights, so its name must end in .safetensors"),
        ("absent.ckpt", "a.safetensors", "weight file absent.ckpt does not exist"),
    ],
)
def test_what_cannot_be_stored_is_said_in_one_line(
    model: str,
    output: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("best.ckpt"))
    before = sorted(tmp_path.iterdir())
    assert graysam.export.main([model, "-o", output, "--kind", "weights"]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_does_not_say_its_model_is_refused(tmp_path: Path) -> None:
    source = WeightSource(path="a.pth", sha256="", known_as=None, layout="graysam")
    with pytest.raises(ValueError, match=r"a\.pth does not describe its model; give a checkpoint"):
        save_half(WeightFile(tensors={}, source=source), tmp_path / "a.safetensors")


def test_the_name_of_our_own_weights_stands_for_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "weights_dir", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"graysam_l0\.safetensors does not exist.*or one of graysam_l0, lite_medsam"):
        read_weights("graysam_l0")
    save_tiny_model(tmp_path / "graysam_l0.safetensors", channels="perona_malik")
    assert Path(read_weights("graysam_l0").source.path) == tmp_path / "graysam_l0.safetensors"
