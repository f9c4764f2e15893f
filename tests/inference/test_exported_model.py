"""Exported models: written whole, read back as written, and refused with the remedy when anything is wrong."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graysam.imaging.presets import load_scheme
from graysam.inference.exported_model import DESCRIPTION, EXPORT_VERSION, read_exported, write_exported
from graysam.inference.locating import exported_path, open_exported, shipped_models
from tests.support.exported_models import SIZE, tiny_graphs, write_tiny_exported

STEMS = ("box_decoder", "box_tokens", "encoder")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_exported(tmp_path_factory.mktemp("bundles") / "tiny").path


@pytest.fixture
def damaged(intact: Path, tmp_path: Path) -> Path:
    """Return a copy to be damaged."""
    return Path(shutil.copytree(intact, tmp_path / "damaged"))


def description(path: Path) -> dict[str, Any]:
    return json.loads((path / DESCRIPTION).read_text())


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ------------------------------------------------------------------------------------------------- whole ones
def test_what_is_written_is_read(intact: Path) -> None:
    exported = read_exported(intact)
    assert (exported.path, exported.name, exported.size) == (intact, "tiny", SIZE)
    assert (exported.format, exported.precision, exported.precision_hint) == ("openvino", "fp32", "f32")
    assert exported.scheme == load_scheme("replicate")
    assert exported.graphs == {stem: intact / f"{stem}.xml" for stem in STEMS}
    assert exported.description == description(intact)
    for stem in STEMS:
        for suffix in ("xml", "bin"):
            content = (intact / f"{stem}.{suffix}").read_bytes()
            wanted = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            assert exported.description["files"][f"{stem}.{suffix}"] == wanted


def test_a_digest_stands_for_graph_and_weights(intact: Path, tmp_path: Path) -> None:
    def with_other_weights(folder: Path) -> None:
        for name in description(intact)["files"]:
            shutil.copy(intact / name, folder / name)
        content = (folder / "encoder.bin").read_bytes()
        (folder / "encoder.bin").write_bytes(content[:-1] + b"\0" if content[-1] else content[:-1] + b"\1")

    exported = read_exported(intact)
    facts = {**exported.description, "name": "renamed"}
    other = write_exported(tmp_path / "other", description=facts, write_graphs=with_other_weights)
    assert {stem for stem in STEMS if exported.digest(stem) != other.digest(stem)} == {"encoder"}
    assert len({exported.digest(stem) for stem in STEMS}) == len(STEMS)


@pytest.mark.parametrize("graphs", [{"plain": True}, {"precision": None}])
def test_one_decoder_and_openvinos_own_precision_are_accepted(tmp_path: Path, graphs: dict[str, Any]) -> None:
    exported = write_tiny_exported(tmp_path / "tiny", **graphs)
    assert set(exported.graphs) == ({"encoder", "decoder"} if "plain" in graphs else set(STEMS))
    assert exported.precision_hint == (None if "precision" in graphs else "f32")


def test_an_exported_model_may_be_replaced_and_another_folder_may_not(tmp_path: Path) -> None:
    path = tmp_path / "exported"
    write_tiny_exported(path, name="first")
    (path / "note.txt").write_text("goes with it")
    assert write_tiny_exported(path, name="second").name == read_exported(path).name == "second"
    assert not (path / "note.txt").exists()
    for stranger in (tmp_path / "folder" / "photo.png", tmp_path / "file"):
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_text("mine")
        taken = tmp_path / stranger.relative_to(tmp_path).parts[0]
        with pytest.raises(ValueError, match=f"{taken} exists and is no exported model, so it is not overwritten"):
            write_tiny_exported(taken)
        assert stranger.read_text() == "mine"
    assert hidden(tmp_path) == []


def test_what_fails_while_writing_leaves_the_old_model(tmp_path: Path) -> None:
    path = tmp_path / "exported"
    write_tiny_exported(path)
    before = description(path)

    def breaks_off(folder: Path) -> None:
        tiny_graphs(0.25, False)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_exported(path, description=before, write_graphs=breaks_off)
    with pytest.raises(ValueError, match="lists the graphs none"):
        write_exported(path, description=before, write_graphs=lambda folder: None)
    assert read_exported(path).description == before
    assert hidden(tmp_path) == []


# --------------------------------------------------------------------------------------------------- damage
def change(**values: Any) -> Callable[[Path], Any]:
    """Change entries of `bundle.json`; Ellipsis takes one out."""

    def damage(path: Path) -> None:
        stored = {**description(path), **values}
        stored = {key: value for key, value in stored.items() if value is not ...}
        (path / DESCRIPTION).write_text(json.dumps(stored))

    return damage


def list_file(name: str, **facts: Any) -> Callable[[Path], Any]:
    """List another file, which is really there with that content."""

    def damage(path: Path) -> None:
        content = b"outside"
        (path.parent / "outside.bin").write_bytes(content)
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **facts}
        change(files={**description(path)["files"], name.replace("ABSOLUTE", str(path.parent)): entry})(path)

    return damage


def unlist(*names: str) -> Callable[[Path], Any]:
    return lambda path: change(files={k: v for k, v in description(path)["files"].items() if k not in names})(path)


def altered(path: Path) -> None:
    content = bytearray((path / "encoder.xml").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "encoder.xml").write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "missing graph": (lambda path: (path / "encoder.xml").unlink(), "encoder.xml", "is missing"),
    "truncated": (
        lambda path: (path / "encoder.xml").write_bytes((path / "encoder.xml").read_bytes()[:-1]),
        "encoder.xml",
        "truncated or altered",
    ),
    "emptied": (lambda path: (path / "encoder.bin").write_bytes(b""), "encoder.bin", "has 0 bytes instead of"),
    "one bit": (altered, "encoder.xml", "differs from the SHA-256 in bundle.json"),
    "no description": (lambda path: (path / DESCRIPTION).unlink(), DESCRIPTION, "is missing"),
    "binary description": (lambda path: (path / DESCRIPTION).write_bytes(b"\xff\xfe"), DESCRIPTION, "invalid JSON"),
    "deep description": (lambda path: (path / DESCRIPTION).write_text("[" * 99999), DESCRIPTION, "invalid JSON"),
    "endless description": (
        lambda path: (path / DESCRIPTION).write_bytes(b" " * (5 << 20)),
        DESCRIPTION,
        "at most 4194304 are allowed",
    ),
    "a list": (lambda path: (path / DESCRIPTION).write_text("[]"), DESCRIPTION, "not a JSON object"),
    "later format": (change(format=2), DESCRIPTION, "is of format 2, this version of graysam reads 1"),
    "no format": (change(format=...), DESCRIPTION, "is of format None"),
    "unknown kind": (change(kind="int4"), DESCRIPTION, "kind is 'int4', not one of fp32, bf16, int8, onnx"),
    "strange precision": (change(precision=["f32"]), DESCRIPTION, "precision is ['f32'], not one of"),
    "no size": (change(size=...), DESCRIPTION, "size is None"),
    "a huge size": (change(size=10**9), DESCRIPTION, "size is 1000000000"),
    "unknown channels": (change(channels={"name": "rgb", "params": {}}), DESCRIPTION, "unknown channel scheme 'rgb'"),
    "no files": (change(files=...), DESCRIPTION, "it lists no files"),
    "an unlisted graph": (unlist("box_tokens.xml", "box_tokens.bin"), DESCRIPTION, "it lists the graphs box_decoder"),
    "a file above": (list_file("../outside.bin"), DESCRIPTION, "it lists '../outside.bin'"),
    "a file below": (list_file("deeper/outside.bin"), DESCRIPTION, "it lists 'deeper/outside.bin'"),
    "another kind of file": (list_file("code.py"), DESCRIPTION, "it lists 'code.py'"),
    "bytes in words": (list_file("more.bin", bytes="7"), DESCRIPTION, "it lists 'more.bin'"),
    "no hash": (list_file("more.bin", sha256="7"), DESCRIPTION, "it lists 'more.bin'"),
}


@pytest.mark.parametrize(("damage", "name", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_is_refused_with_the_remedy(
    damaged: Path, damage: Callable[[Path], Any], name: str, reason: str
) -> None:
    damage(damaged)
    with pytest.raises(ValueError) as refused:
        read_exported(damaged)
    message = str(refused.value)
    assert message.startswith(f"{damaged / name} ")
    assert reason in message
    assert "export the model again" in message
    assert "\n" not in message


def test_files_that_are_not_listed_are_left_alone(damaged: Path) -> None:
    (damaged / "README.md").write_text("where this comes from")
    assert read_exported(damaged).name == "tiny"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent is not a directory; give an exported model"):
        read_exported(tmp_path / "absent")


# ------------------------------------------------------------------------------------------------- locating
@pytest.fixture
def shelves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give graysam one shipped model, and a cache that is empty."""
    monkeypatch.setattr("graysam.inference.locating.weights_dir", lambda: tmp_path / "weights")
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
    path = write_tiny_exported(shelves / "mine", kind="bf16").path
    assert open_exported(str(path)).precision == open_exported(str(path), "bf16").precision == "bf16"
    assert open_exported("mine").path == Path("mine")
    with pytest.raises(ValueError, match="is exported as bf16, but int8 is asked for; leave the precision out"):
        open_exported(str(path), "int8")


def test_a_weight_file_is_known_by_its_content(shelves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("a.pth", b"weights"), ("b.pth", b"weights"), ("c.pth", b"others")):
        Path(name).write_bytes(content)
    path = exported_path("a.pth")
    assert path.parent == shelves / "cache" / "bundles"
    assert path.name.startswith("a_int8_")
    key = path.name.removeprefix("a_int8_")
    assert exported_path("b.pth").name == f"b_int8_{key}"
    others = [exported_path("c.pth"), exported_path("a.pth", "fp32"), exported_path("a.pth", None, "paper")]
    monkeypatch.setattr("graysam.inference.locating.EXPORT_VERSION", EXPORT_VERSION + 1)
    others.append(exported_path("a.pth"))
    assert len({key, *(other.name.rpartition("_")[2] for other in others)}) == 5
    with pytest.raises(ValueError, match=r"a\.pth is not exported as int8 yet; give the folder"):
        open_exported("a.pth")
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
        (
            "absent.pth",
            r"absent\.pth does not exist; give an exported model's folder, a weight file or shipped_one \(int8\)",
        ),
        ("folder/absent", "folder/absent does not exist"),
        ("../weights/shipped_one", "does not exist"),
        ("weights", r"weights/bundle\.json is missing, so its folder is no exported model"),
    ],
)
def test_a_model_that_is_not_there_is_refused(shelves: Path, model: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        open_exported(model)
