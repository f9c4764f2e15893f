"""Exported models: written whole, read back as written, and refused with the remedy when anything is wrong."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graysam.imaging.channels import load_scheme
from graysam.inference.exported_model import (
    DESCRIPTION,
    EXPORT_VERSION,
    exported_path,
    open_exported,
    read_exported,
    shipped_models,
    write_exported,
)
from tests.support.exported_models import SIZE, tiny_graphs, write_tiny_exported

STEMS = ("box_decoder", "box_tokens", "encoder")


def description(path: Path) -> dict[str, Any]:
    return json.loads((path / DESCRIPTION).read_text())


def test_what_is_written_is_read(tiny_exported: Path) -> None:
    exported = read_exported(tiny_exported)
    assert (exported.path, exported.name, exported.size) == (tiny_exported, "tiny", SIZE)
    assert (exported.format, exported.precision, exported.precision_hint) == ("openvino", "fp32", "f32")
    assert exported.scheme == load_scheme("replicate")
    assert exported.graphs == {stem: tiny_exported / f"{stem}.xml" for stem in STEMS}
    assert exported.description == description(tiny_exported)
    for name, facts in exported.description["files"].items():
        content = (tiny_exported / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_digest_stands_for_graph_and_weights(tiny_exported: Path, tmp_path: Path) -> None:
    def with_other_weights(folder: Path) -> None:
        for name in description(tiny_exported)["files"]:
            shutil.copy(tiny_exported / name, folder / name)
        (folder / "encoder.bin").write_bytes(b"others")

    exported = read_exported(tiny_exported)
    facts = {**exported.description, "name": "renamed"}
    other = write_exported(tmp_path / "other", description=facts, write_graphs=with_other_weights)
    assert {stem for stem in STEMS if exported.digest(stem) != other.digest(stem)} == {"encoder"}
    assert len({exported.digest(stem) for stem in STEMS}) == len(STEMS)


def test_an_exported_model_may_be_replaced_and_another_folder_may_not(tmp_path: Path) -> None:
    path = tmp_path / "exported"
    write_tiny_exported(path, name="first")
    assert write_tiny_exported(path, name="second").name == read_exported(path).name == "second"
    (tmp_path / "folder").mkdir()
    for stranger in (tmp_path / "folder" / "photo.png", tmp_path / "file", path / "note.txt"):
        stranger.write_text("mine")
        taken = stranger if stranger.name == "file" else stranger.parent
        reason = "exists and is a file" if stranger.name == "file" else "holds something else than an exported model"
        with pytest.raises(ValueError, match=f"{taken} {reason}"):
            write_tiny_exported(taken)
        assert stranger.read_text() == "mine"


def test_what_fails_while_writing_leaves_the_old_model(tmp_path: Path) -> None:
    path = tmp_path / "exported"
    write_tiny_exported(path)
    before = description(path)

    def breaks_off(folder: Path) -> None:
        tiny_graphs(0.25, False)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_exported(path, description=before, write_graphs=breaks_off)
    with pytest.raises(ValueError, match="its files make no model"):
        write_exported(path, description=before, write_graphs=lambda folder: None)
    assert read_exported(path).description == before
    assert list(tmp_path.iterdir()) == [path]


def change(**values: Any) -> Callable[[Path], Any]:
    """Change entries of `bundle.json`; Ellipsis takes one out."""

    def damage(path: Path) -> None:
        stored = {key: value for key, value in {**description(path), **values}.items() if value is not ...}
        (path / DESCRIPTION).write_text(json.dumps(stored))

    return damage


def list_file(name: str, **facts: Any) -> Callable[[Path], Any]:
    """List another file, which is really there with that content."""

    def damage(path: Path) -> None:
        (path.parent / "outside.bin").write_bytes(b"outside")
        entry = {"bytes": 7, "sha256": hashlib.sha256(b"outside").hexdigest(), **facts}
        change(files={**description(path)["files"], name: entry})(path)

    return damage


def unlist(*names: str) -> Callable[[Path], Any]:
    return lambda path: change(files={k: v for k, v in description(path)["files"].items() if k not in names})(path)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "missing graph": (lambda path: (path / "encoder.xml").unlink(), "encoder.xml", "is missing"),
    "altered": (
        lambda path: (path / "encoder.xml").write_bytes((path / "encoder.xml").read_bytes()[:-1] + b"?"),
        "encoder.xml",
        "differs from its SHA-256 in bundle.json",
    ),
    "binary description": (lambda path: (path / DESCRIPTION).write_bytes(b"\0"), DESCRIPTION, "Expecting value"),
    "deep description": (lambda path: (path / DESCRIPTION).write_text("[" * 99999), DESCRIPTION, "recursion"),
    "a list": (lambda path: (path / DESCRIPTION).write_text("[]"), DESCRIPTION, "list indices"),
    "later format": (change(format=2), DESCRIPTION, "is of format 2, this version of graysam reads 1"),
    "unknown kind": (change(kind="int4"), DESCRIPTION, "kind is 'int4'"),
    "strange precision": (change(precision=["f32"]), DESCRIPTION, "precision is ['f32']"),
    "no size": (change(size=...), DESCRIPTION, "it has no 'size'"),
    "a huge size": (change(size=10**9), DESCRIPTION, "size is 1000000000"),
    "unknown channels": (change(channels={"name": "rgb", "params": {}}), DESCRIPTION, "unknown channel scheme 'rgb'"),
    "an unlisted graph": (unlist("box_tokens.xml", "box_tokens.bin"), DESCRIPTION, "its files make no model"),
    "unlisted weights": (unlist("encoder.bin"), DESCRIPTION, "its files make no model"),
    "a file above": (list_file("../outside.bin"), DESCRIPTION, "files is {"),
    "another kind of file": (list_file("code.py"), DESCRIPTION, "files is {"),
    "no hash": (list_file("more.bin", sha256=7), DESCRIPTION, "files is {"),
}


@pytest.mark.parametrize(("damage", "name", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_refused_with_the_remedy(
    tiny_exported: Path, tmp_path: Path, damage: Callable[[Path], Any], name: str, reason: str
) -> None:
    damaged = Path(shutil.copytree(tiny_exported, tmp_path / "damaged"))
    damage(damaged)
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        read_exported(damaged)
    message = str(refused.value)
    assert message.startswith(f"{damaged / name} ")
    assert "export the model again" in message
    assert "\n" not in message


@pytest.fixture
def shelves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give graysam one shipped model, and a cache that is empty."""
    monkeypatch.setattr("graysam.inference.exported_model.weights_dir", lambda: tmp_path / "weights")
    monkeypatch.setenv("GRAYSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_tiny_exported(tmp_path / "weights" / "shipped_one_int8", kind="int8")
    return tmp_path


def test_what_is_shipped_is_found_by_name_as_int8(shelves: Path) -> None:
    assert shipped_models() == {"shipped_one": ["int8"]}
    assert exported_path("shipped_one") == shelves / "weights" / "shipped_one_int8"
    assert open_exported("shipped_one", "int8").precision == "int8"
    with pytest.raises(ValueError, match=r"shipped_one is not exported as bf16 yet.*, or shipped_one \(int8\)$"):
        open_exported("shipped_one", "bf16")


def test_a_folder_is_taken_as_it_is_and_another_precision_refused(shelves: Path) -> None:
    write_tiny_exported(shelves / "mine", kind="bf16")
    assert open_exported("mine").precision == open_exported("mine", "bf16").precision == "bf16"
    with pytest.raises(ValueError, match="is exported as bf16, but int8 is asked for"):
        open_exported("mine", "int8")


def test_a_weight_file_is_known_by_its_content(shelves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("a.pth", b"weights"), ("b.pth", b"weights"), ("c.pth", b"others")):
        Path(name).write_bytes(content)
    path = exported_path("a.pth")
    assert path.parent == shelves / "cache" / "bundles"
    assert path.name.startswith("a_int8_")
    key = path.name.removeprefix("a_int8_")
    assert exported_path("b.pth").name == f"b_int8_{key}"
    others = [exported_path("c.pth"), exported_path("a.pth", "fp32"), exported_path("a.pth", None, "paper")]
    monkeypatch.setattr("graysam.inference.exported_model.EXPORT_VERSION", EXPORT_VERSION + 1)
    others.append(exported_path("a.pth"))
    assert len({key, *(other.name.rpartition("_")[2] for other in others)}) == 5
    write_tiny_exported(exported_path("a.pth", "fp32"))
    assert open_exported("a.pth", "fp32").name == "tiny"


def test_a_name_stands_for_the_weights_that_are_shipped_with_it(shelves: Path) -> None:
    (shelves / "weights" / "shipped_one.safetensors").write_bytes(b"weights")
    assert exported_path("shipped_one") == shelves / "weights" / "shipped_one_int8"
    Path("a.pth").write_bytes(b"weights")
    path = exported_path("shipped_one", "fp32")
    assert path.name.startswith("shipped_one_fp32_")
    assert path.name.removeprefix("shipped_one") == exported_path("a.pth", "fp32").name.removeprefix("a")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("absent.pth", r"absent\.pth does not exist; give .* a weight file or shipped_one \(int8\)"),
        ("../weights/shipped_one", "does not exist"),
        ("weights", r"weights is no exported model, the folder with bundle\.json"),
    ],
)
def test_a_model_that_is_not_there_is_refused(shelves: Path, model: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        open_exported(model)


def test_a_folder_of_a_models_name_does_not_hide_it_silently(shelves: Path) -> None:
    Path("shipped_one").mkdir()
    place = shelves / "weights" / "shipped_one_int8"
    with pytest.raises(ValueError, match=rf"shipped_one is a folder here.*give --model {place}, or rename the folder$"):
        open_exported("shipped_one")
    assert open_exported(str(place)).name == "tiny"
    (place / "encoder.bin").unlink()
    with pytest.raises(ValueError, match=r"encoder\.bin is missing; reinstall graysam$"):
        open_exported(str(place))
