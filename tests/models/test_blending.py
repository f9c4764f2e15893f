"""Between a model and the one it was fine-tuned from: the mean of hand-made weights, and what has no between."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import graysam.export
from graysam.models.interpolation import blend
from graysam.models.weights import WeightFile, WeightSource, read_weights
from graysam.system.files import sha256_of
from tests.support.commands import save_tiny_model

DESCRIPTION = {"model": {"name": "a"}, "channels": {"name": "replicate"}, "size": 256}


def file(name: str, **values: torch.Tensor) -> WeightFile:
    """Return what reading a checkpoint of these tensors gives."""
    source = WeightSource(path=f"{name}.ckpt", sha256=name, known_as=None, layout="graysam")
    return WeightFile(tensors=values, source=source, metadata=DESCRIPTION)


START = file("start", weight=torch.tensor([0.0, 4.0]), steps=torch.tensor(10))
TUNED = file("tuned", weight=torch.tensor([2.0, 0.0]), steps=torch.tensor(30))


@pytest.mark.parametrize(("share", "weight"), [(0.0, [0.0, 4.0]), (0.25, [0.5, 3.0]), (1.0, [2.0, 0.0])])
def test_a_blend_lies_between_by_the_tuned_models_share(share: float, weight: list[float]) -> None:
    blended = blend(START, TUNED, share)
    torch.testing.assert_close(blended.tensors["weight"], torch.tensor(weight))
    assert blended.tensors["steps"] == 30
    assert blended.metadata == {
        **DESCRIPTION,
        "blended": [{"sha256": "start", "share": 1 - share}, {"sha256": "tuned", "share": share}],
    }
    torch.testing.assert_close(START.tensors["weight"], torch.tensor([0.0, 4.0]))


@pytest.mark.parametrize(
    ("other", "share", "reason"),
    [
        (START, 1.5, r"share of the tuned model is 1\.5; required: from 0 to 1"),
        (START, float("nan"), "share of the tuned model is nan"),
        (replace(START, metadata=None), 0.5, r"start\.ckpt does not describe its model"),
        (replace(START, metadata={**DESCRIPTION, "size": 512}), 0.5, "differ in size; required"),
        (replace(START, metadata={**DESCRIPTION, "channels": {"name": "paper"}}), 0.5, "differ in channels"),
        (
            file("start", weight=torch.zeros(3), steps=torch.tensor(1)),
            0.5,
            r"start\.ckpt and tuned\.ckpt differ in tensors",
        ),
        (file("start", weight=torch.zeros(2)), 0.5, "differ in tensors"),
    ],
)
def test_what_has_nothing_between_is_refused(other: WeightFile, share: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        blend(other, TUNED, share)


def test_the_command_stores_a_blend_and_says_of_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = save_tiny_model(tmp_path / "start.safetensors", channels="perona_malik")
    tuned = save_tiny_model(tmp_path / "tuned.safetensors", channels="perona_malik", filled=True)
    first, second = read_weights(str(start)), read_weights(str(tuned))
    assert any(not torch.equal(value, second.tensors[key]) for key, value in first.tensors.items())
    target = tmp_path / "blend.safetensors"
    command = [str(tuned), "-o", str(target), "--kind", "weights", "--blend-from", str(start), "--blend-share", "0.25"]
    assert graysam.export.main(command) == 0
    assert capsys.readouterr().out.startswith(f"{target}: ")
    stored = read_weights(str(target))
    for key, value in stored.tensors.items():
        if value.is_floating_point():
            expected = 0.75 * first.tensors[key] + 0.25 * second.tensors[key]
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)
    assert stored.metadata is not None
    assert stored.metadata["blended"] == [
        {"sha256": sha256_of(start), "share": 0.75},
        {"sha256": sha256_of(tuned), "share": 0.25},
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--blend-from", "absent.ckpt"], "weight file absent.ckpt does not exist"),
        (["--blend-from", "tuned.safetensors", "--blend-share", "2"], "required: from 0 to 1"),
    ],
)
def test_a_blend_that_cannot_be_made_is_said_in_one_line(
    options: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "tuned.safetensors", channels="perona_malik")
    assert graysam.export.main(["tuned.safetensors", "-o", "out.safetensors", "--kind", "weights", *options]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.safetensors"]
