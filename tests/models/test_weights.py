"""Weight files: strict, explicit, safe, and honest about where they came from."""

import argparse
import gzip
import json
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from graysam.models import weights
from graysam.models.registry import EncoderNumbers, build_model, model_name
from graysam.models.weights import (
    DOWNLOADS,
    HEADS,
    lite_medsam_path,
    load_embedding_norm,
    load_parts,
    load_whole,
    read_weights,
    rename,
    resolve,
)
from graysam.system.files import sha256_of
from tests.support.commands import save_tiny_model
from tests.support.fill import as_weight_file, official_state

LAYOUTS = {"efficientvit_sam_l0": "efficientvit_sam", "lite_medsam": "lite_medsam"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_official_keys_map_onto_ours_one_to_one(goldens: Path, name: str) -> None:
    keys = json.loads((goldens / "keys_and_shapes.json").read_text())[name]["keys"]
    ours = {rename(key, LAYOUTS[name]) for key in keys}
    assert len(ours) == len(keys)
    assert ours == set(build_model(name).state_dict())


def test_a_changed_official_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "lite_medsam.pth"
    changed.write_bytes(lite_medsam_path().read_bytes()[:-1] + b"x")
    monkeypatch.setattr(weights, "distribution", lambda name: SimpleNamespace(locate_file=lambda file: changed))
    with pytest.raises(ValueError, match="reinstall it"):
        read_weights("lite_medsam")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".pth"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_file_and_tensor(tmp_path: Path, suffix: str, value: float) -> None:
    path = save_tiny_model(tmp_path / f"w{suffix}")
    file = read_weights(str(path))
    key = next(key for key, tensor in file.tensors.items() if tensor.ndim == 4)
    file.tensors[key].view(-1)[:2] = value
    torch.save(dict(file.tensors), path) if suffix == ".pth" else resave(path, dict(file.tensors))
    with pytest.raises(ValueError, match=rf"weight file {path}: tensor {key} holds 2 NaN or infinite of \d+ numbers"):
        read_weights(str(path))


def resave(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": {f"model.{key}": value for key, value in tensors.items()}}, path)


@pytest.mark.parametrize("wrapping", ["flat", "model", "state_dict", "module"])
def test_wrappings_of_training_scripts_are_taken_off(tmp_path: Path, wrapping: str) -> None:
    state = {"image_encoder.backbone.stages.4.op_list.2.x": torch.rand(3).half()}
    state["image_encoder.backbone.stages.0.op_list.0.x"] = torch.rand(3)
    content = {
        "flat": state,
        "model": {"model": state, "epoch": 3, "best_loss": 0.1},
        "state_dict": {"state_dict": state},
        "module": {"model": {f"module.{key}": value for key, value in state.items()}},
    }[wrapping]
    torch.save(content, tmp_path / "w.pt")
    file = read_weights(str(tmp_path / "w.pt"))
    assert set(file.tensors) == {"image_encoder.backbone.stages.3.blocks.2.x", "image_encoder.backbone.stem.in_conv.x"}
    assert all(value.dtype == torch.float32 for value in file.tensors.values())
    assert file.source.known_as is None and file.source.sha256 == sha256_of(tmp_path / "w.pt")
    assert "unverified" in file.source.describe()


def test_numbers_of_numpy_beside_the_weights_are_read(tmp_path: Path) -> None:
    numbers = {code: np.dtype(code).type(1) for code in "?bhiqBHIQefd"}
    state = {"image_encoder.backbone.stem.x": torch.rand(3)}
    torch.save({"model": state, "best_loss": np.float64(0.5), "numbers": numbers}, tmp_path / "w.pth")
    assert torch.equal(read_weights(str(tmp_path / "w.pth")).tensors["image_encoder.backbone.stem.x"], *state.values())


def write_zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "content")


def cut(path: Path) -> None:
    torch.save({"a": torch.rand(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("w.pth"))


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234567\n"
UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "page": (lambda path: path.write_text("\n<!DOCTYPE html>\n<html>"), r"is a web page \(HTML\); download the file"),
    "plain page": (lambda path: path.write_text("<html><head>"), r"is a web page \(HTML\)"),
    "pointer": (lambda path: path.write_text(POINTER), "is a pointer of Git LFS to 1234567 bytes; run git lfs pull$"),
    "empty": (lambda path: path.touch(), "is empty; copy or download it again$"),
    "truncated": (cut, r"is truncated or damaged, at \d+ bytes; copy or download it again$"),
    "zip": (lambda path: write_zip(path, "w.pth"), r"is a ZIP archive of w\.pth; unpack it"),
    "tar": (write_tar, "is a compressed file or a tar archive; unpack it"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x")), "is a compressed file or a tar archive; unpack it"),
    "TorchScript": (
        lambda path: write_zip(path, "a/constants.pkl", "a/data.pkl"),
        "is a TorchScript program; required",
    ),
    "object": (
        lambda path: torch.save({"model": {}, "args": argparse.Namespace(lr=1)}, path),
        r"holds an object of argparse\.Namespace, .*; store the state dict alone: torch\.save",
    ),
    "path": (lambda path: torch.save({"path": Path("x")}, path), r"holds an object of pathlib\.\S*, .*store the state"),
    "whole module": (lambda path: torch.save(torch.nn.ReLU(), path), r"holds an object of torch\.nn\..*ReLU, "),
    "text": (
        lambda path: path.write_text("hello"),
        r"cannot be read as tensors \(5 bytes, damaged or of another format",
    ),
    "list": (lambda path: torch.save([1], path), "cannot be read as tensors .it holds a list, not a dictionary"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_without_weights_is_named_for_what_it_is(tmp_path: Path, kind: str, suffix: str) -> None:
    write, words = UNREADABLE[kind]
    if suffix == ".safetensors" and "torch" in str(write.__code__.co_names):
        pytest.skip("torch's own format, by another name")
    path = tmp_path / f"w{suffix}"
    write(path)
    if suffix == ".safetensors" and kind == "text":
        words = "cannot be read as tensors"
    with pytest.raises(ValueError, match=rf"^weight file {path} {words}") as error:
        read_weights(str(path))
    assert not re.search(r"weights_only|[^ -~]", str(error.value))


@pytest.mark.parametrize("name", ["efficientvit_sam_l1", "efficientvit_sam_l2"])
def test_larger_sizes_are_told_apart(name: str) -> None:
    assert model_name(as_weight_file(build_model(name).state_dict(), "efficientvit_sam")) == name


def test_heads_of_a_vit_sam_load_by_prefix(goldens: Path) -> None:
    state = official_state(goldens, "medsam_vit_b")
    file = as_weight_file(state, "sam_vit")
    model = build_model("efficientvit_sam_l0")
    before = model.image_encoder.norm.weight.clone()
    assert list(load_parts(model, file, HEADS).parts) == ["prompt_encoder", "mask_decoder"]
    loaded = model.state_dict()
    heads = [key for key in state if not key.startswith("image_encoder.")]
    assert len(heads) == 137
    assert all(torch.equal(loaded[key], state[key]) for key in heads)
    assert torch.equal(model.image_encoder.norm.weight, before)
    load_embedding_norm(model, file)
    assert torch.equal(model.image_encoder.norm.weight, state["image_encoder.neck.3.weight"])


def test_every_mismatch_is_listed(goldens: Path) -> None:
    state = official_state(goldens, "lite_medsam")
    del state["mask_decoder.iou_token.weight"]
    state["elsewhere"] = torch.zeros(1)
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 128)
    with pytest.raises(ValueError, match="do not fit the model") as error:
        load_whole(build_model("lite_medsam"), as_weight_file(state, "lite_medsam"))
    for key in (
        '"mask_decoder.iou_token.weight"',
        '"elsewhere"',
        "size mismatch for prompt_encoder.no_mask_embed.weight",
    ):
        assert key in str(error.value)
    assert "\n" not in str(error.value)


def test_loading_drops_stale_attention_biases() -> None:
    numbers = EncoderNumbers(embed_dims=[16, 16, 16, 32], depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 2])
    model, other = (build_model("lite_medsam", encoder=numbers).eval() for _ in range(2))
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.encode(image)  # caches the biases of the first weights
        load_parts(model, as_weight_file(other.state_dict(), "graysam"))
        assert not model.training
        assert torch.equal(model.encode(image), other.encode(image))


def test_downloads_are_named_when_complete_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = tmp_path / "official.pth"
    torch.save({"weight": torch.zeros(3)}, official)
    monkeypatch.setenv("GRAYSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(DOWNLOADS, "good", (official.as_uri(), sha256_of(official)[:6]))
    assert resolve("good").read_bytes() == official.read_bytes()
    resolve("good").unlink()
    for name, url, prefix in (("bad", official.as_uri(), "ffffff"), ("gone", f"{official.as_uri()}x", None)):
        monkeypatch.setitem(DOWNLOADS, name, (url, prefix))
        with pytest.raises(ValueError, match=f"{name} could not be downloaded from file"):
            resolve(name)
        assert list((tmp_path / "cache" / "weights").iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"no weights", "truncated", "pickle", {"a": torch.zeros(9)}, [torch.zeros(3)]]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unusable_files_give_one_line(tmp_path: Path, content: Any, suffix: str) -> None:
    path, trap = tmp_path / f"w{suffix}", tmp_path / "trap"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(trap), "w")  # unpickling would create the file

    torch.save({"a": torch.zeros(1000)} if isinstance(content, str | bytes) else content, path)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:1500])
    elif content == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ValueError, match="weight file") as error:
        read_weights(str(path))
    assert "\n" not in str(error.value)
    assert not trap.exists()


def test_graysam_l0_is_looked_for_in_four_places_and_known_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, checkout = "graysam_l0.safetensors", tmp_path / "checkout"
    tiny = save_tiny_model(tmp_path / "tiny.safetensors", channels="perona_malik")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAYSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GRAYSAM_WEIGHTS", raising=False)
    monkeypatch.setattr("graysam.system.environment._PACKAGE", checkout / "graysam")
    cached = tmp_path / "cache" / "weights"
    message = (
        rf"graysam_l0\.safetensors \(sha256 {weights.GRAYSAM_L0_SHA256}\).*GRAYSAM_WEIGHTS \(not set\), \./weights, "
    )
    with pytest.raises(ValueError, match=f"{message}{cached}$"):
        read_weights("graysam_l0")
    monkeypatch.setattr(weights, "GRAYSAM_L0_SHA256", sha256_of(tiny))
    (checkout / "weights").mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    with pytest.raises(ValueError, match=f"./weights, {checkout / 'weights'}, {cached}$"):
        read_weights("graysam_l0")

    monkeypatch.setenv("GRAYSAM_WEIGHTS", str(tmp_path / "mine"))
    for folder in (cached, checkout / "weights", Path("weights"), tmp_path / "mine"):  # the last place first
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tiny, folder / file)
        assert Path(read_weights("graysam_l0").source.path) == folder / file
    monkeypatch.setattr(weights, "GRAYSAM_L0_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=f"{tmp_path / 'mine' / file} has sha256 .*; graysam_l0 requires 0000"):
        read_weights("graysam_l0")
    assert read_weights(f"mine/{file}").source.known_as is None, "by its path it is any file"
