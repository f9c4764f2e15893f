"""Weights derived from checkpoints: float16 files, and interpolation with the model that fine-tuning started from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import graysam.export
from graysam.models.derived_weights import interpolate, save_half
from graysam.models.weights import METADATA_KEY, WeightFile, WeightSource, read_weights
from graysam.system.files import sha256_of
from tests.support.commands import save_tiny_model

DESCRIPTION = {"model": {"name": "a"}, "channels": {"name": "replicate"}, "size": 256}


def file(name: str, **values: torch.Tensor) -> WeightFile:
    source = WeightSource(path=f"{name}.ckpt", sha256=name, known_as=None, layout="graysam")
    return WeightFile(tensors=values, source=source, metadata=DESCRIPTION)


START = file("start", weight=torch.tensor([0.0, 4.0]), steps=torch.tensor(10))
TUNED = file("tuned", weight=torch.tensor([2.0, 0.0]), steps=torch.tensor(30))


def checkpoint(path: Path) -> Path:
    """Store a tiny model as a Lightning checkpoint that started from files in somebody's folder."""
    content = torch.load(save_tiny_model(path, channels="perona_malik"), weights_only=True)
    content[METADATA_KEY]["weights"] = [{"path": "/home/somebody/start.pth", "sha256": "ab"}]
    torch.save(content, path)
    return path


def test_a_float16_file_holds_the_weights_and_their_description(tmp_path: Path) -> None:
    path, target = checkpoint(tmp_path / "best.ckpt"), tmp_path / "out" / "own.safetensors"
    before = read_weights(str(path))
    save_half(before, target)
    after = read_weights(str(target))
    assert before.tensors.keys() == after.tensors.keys()
    for key, value in before.tensors.items():
        exact = value.ndim < 2  # vectors and counters
        torch.testing.assert_close(after.tensors[key], value, rtol=0 if exact else 1e-3, atol=0 if exact else 1e-7)
    assert target.stat().st_size < 0.6 * path.stat().st_size
    assert after.description["weights"] == [{"path": "start.pth", "sha256": "ab"}], "without the folder"
    assert after.description["made_from"] == {"sha256": sha256_of(path)}
    assert all(after.description[key] == before.description[key] for key in ("model", "channels"))


def test_what_float16_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    beyond = replace(START, tensors={"fine": torch.ones(2, 2), "too.large": torch.full((2, 2), 70000.0)})
    with pytest.raises(ValueError, match=r"float16 cannot hold the values of too\.large; keep the checkpoint"):
        save_half(beyond, tmp_path / "a.safetensors")


@pytest.mark.parametrize(("weight", "expected"), [(0.0, [0.0, 4.0]), (0.25, [0.5, 3.0]), (1.0, [2.0, 0.0])])
def test_interpolated_weights_lie_between_start_and_tuned(weight: float, expected: list[float]) -> None:
    between = interpolate(START, TUNED, weight)
    torch.testing.assert_close(between.tensors["weight"], torch.tensor(expected))
    assert between.tensors["steps"] == 30
    sources = [{"sha256": "start", "weight": 1 - weight}, {"sha256": "tuned", "weight": weight}]
    assert between.metadata == {**DESCRIPTION, "interpolated": sources}


@pytest.mark.parametrize(
    ("other", "weight", "reason"),
    [
        (START, float("nan"), "weight of the tuned model is nan; required: from 0 to 1"),
        (replace(START, metadata=None), 0.5, r"start\.ckpt does not describe its model; give a checkpoint"),
        (replace(START, metadata={**DESCRIPTION, "size": 512}), 0.5, "differ in size; required"),
        (file("start", weight=torch.zeros(3), steps=torch.tensor(1)), 0.5, "differ in tensors"),
    ],
)
def test_different_models_are_not_interpolated(other: WeightFile, weight: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        interpolate(other, TUNED, weight)


def test_the_command_stores_interpolated_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = save_tiny_model(tmp_path / "start.safetensors", channels="perona_malik")
    tuned = save_tiny_model(tmp_path / "tuned.safetensors", channels="perona_malik", filled=True)
    first, second = read_weights(str(start)), read_weights(str(tuned))
    target = tmp_path / "between.safetensors"
    options = f"--format weights --interpolate-from {start} --interpolate-weight 0.25"
    assert graysam.export.main([str(tuned), "-o", str(target), *options.split()]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: ")
    for key, value in read_weights(str(target)).tensors.items():
        if value.is_floating_point():
            expected = 0.75 * first.tensors[key] + 0.25 * second.tensors[key]
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("-o folder", "-o folder holds weights, so its name must end in .safetensors"),
        ("-o a.safetensors --interpolate-from absent.ckpt", "weight file absent.ckpt does not exist"),
    ],
)
def test_what_cannot_be_stored_is_one_line(
    arguments: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(Path("best.ckpt"))
    before = sorted(tmp_path.iterdir())
    assert graysam.export.main(["best.ckpt", *arguments.split(), "--format", "weights"]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == before
