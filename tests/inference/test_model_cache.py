"""Compiled networks on disk: used when they are right, and never a reason for anything to fail or to differ."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

import graysam.inference.model_cache
from graysam.inference.model_cache import compile_cached
from tests.support.exported_models import SIZE, write_tiny_exported

PROPERTIES = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
IMAGES = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)


class CountingCore:
    """OpenVINO's core that tells how networks came about."""

    def __init__(self) -> None:
        self.core = openvino.Core()
        self.calls: list[str] = []

    def get_property(self, device: str, name: str) -> Any:
        return self.core.get_property(device, name)

    def compile_model(self, *arguments: Any) -> Any:
        self.calls.append("compile")
        return self.core.compile_model(*arguments)

    def import_model(self, *arguments: Any) -> Any:
        self.calls.append("import")
        return self.core.import_model(*arguments)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_exported(tmp_path_factory.mktemp("bundles") / "tiny").graphs["encoder"]


def load(encoder: Path, cache_dir: Path | None, key: str = "key", **properties: Any) -> tuple[list[str], np.ndarray]:
    """Return how the network came about, and what it computes."""
    core: Any = CountingCore()
    compiled = compile_cached(core, encoder, {**PROPERTIES, **properties}, cache_dir, key)
    return core.calls, compiled([IMAGES])[0]


def entries(cache_dir: Path) -> list[Path]:
    return sorted(cache_dir.iterdir())


def test_the_second_process_imports_what_the_first_compiled(encoder: Path, tmp_path: Path) -> None:
    cache_dir = tmp_path / "not" / "there yet"
    without, wanted = load(encoder, None)
    first, made = load(encoder, cache_dir)
    second, imported = load(encoder, cache_dir)
    assert (without, first, second) == (["compile"], ["compile"], ["import"])
    pooled = IMAGES.reshape(1, 3, SIZE // 4, 4, SIZE // 4, 4).mean(axis=(3, 5)).reshape(1, 3, -1).transpose(0, 2, 1)
    np.testing.assert_allclose(wanted, pooled, atol=1e-6)
    assert np.array_equal(made, wanted)
    assert np.array_equal(imported, wanted)
    (entry,) = entries(cache_dir)
    assert entry.name.startswith("encoder-")


def test_weights_stay_in_the_bundle(tmp_path: Path) -> None:
    """An entry is good for one pair of graph and weights, so it need not hold them."""
    from openvino import Model, Type, save_model
    from openvino import opset13 as op

    weights = np.random.default_rng(0).random((512, 512), np.float32)
    given = op.parameter([1, 512], Type.f32, name="images")
    save_model(Model([op.matmul(given, op.constant(weights), False, False)], [given], "m"), tmp_path / "m.xml", False)
    for _ in range(2):
        compiled = compile_cached(openvino.Core(), tmp_path / "m.xml", PROPERTIES, tmp_path / "cache", "key")
    (entry,) = entries(tmp_path / "cache")
    assert entry.stat().st_size < weights.nbytes / 10
    np.testing.assert_allclose(compiled([np.ones((1, 512), np.float32)])[0], weights.sum(axis=0)[None], rtol=1e-5)


# ---------------------------------------------------------------------------------------------- damaged entries
def of_a_stranger(content: bytes) -> bytes:
    """Return an entry whose digest is right for another identity."""
    digest = graysam.inference.model_cache._digest(b"another machine", content[32:])
    return digest + content[32:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "digest alone": lambda content: content[:32],
    "truncated": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0",
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "of a stranger": of_a_stranger,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_never_imported_and_made_anew(
    encoder: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    _, wanted = load(encoder, tmp_path)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    calls, found = load(encoder, tmp_path)
    assert calls == ["compile"]
    assert np.array_equal(found, wanted)
    assert load(encoder, tmp_path)[0] == ["import"]
    assert entries(tmp_path) == [entry]


def test_what_openvino_does_not_import_is_compiled(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wanted = load(encoder, tmp_path)

    def refuse(*_: Any) -> None:
        raise RuntimeError("the model was exported with another version")

    with monkeypatch.context() as patch:
        patch.setattr(CountingCore, "import_model", refuse)
        calls, found = load(encoder, tmp_path)
    assert calls == ["compile"]
    assert np.array_equal(found, wanted)
    assert load(encoder, tmp_path)[0] == ["import"]


# ---------------------------------------------------------------------------------------- what makes it another
@pytest.mark.parametrize("what", ["key", "property", "openvino", "cpu", "features"])
def test_another_network_or_machine_is_another_entry(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    load(encoder, tmp_path)
    options: dict[str, Any] = {}
    if what == "key":
        options["key"] = "other"
    elif what == "property":
        options["INFERENCE_NUM_THREADS"] = 1
    elif what == "openvino":
        monkeypatch.setattr(openvino, "__version__", "2099.1")
    elif what == "cpu":
        ask = CountingCore.get_property
        monkeypatch.setattr(CountingCore, "get_property", lambda *given: [f"{ask(*given)} of another kind"])
    else:
        monkeypatch.setattr(graysam.inference.model_cache, "_cpu_features", lambda: "flags: mmx")
    assert load(encoder, tmp_path, **options)[0] == ["compile"]
    assert len(entries(tmp_path)) == 2


# ------------------------------------------------------------------------------------------------ no cache at all
def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    assert load(encoder, tmp_path / "file" / "below")[0] == ["compile"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert load(encoder, tmp_path / "full")[0] == ["compile"]
    assert entries(tmp_path / "full") == []


def test_processes_at_once_do_not_disturb_each_other(encoder: Path, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import numpy, openvino
from graysam.inference.model_cache import compile_cached
sys.stdin.readline()
for _ in range(5):
    compiled = compile_cached(openvino.Core(), Path(sys.argv[1]), {}, Path(sys.argv[2]), "key")
    print(float(compiled([numpy.ones((1, 3, 64, 64), numpy.float32)])[0].sum()))
    for entry in Path(sys.argv[2]).glob("*.blob"):
        entry.unlink(missing_ok=True)
"""
    command = [sys.executable, "-c", code, str(encoder), str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    for process in running:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    for process in running:
        printed, errors = process.communicate()
        assert process.returncode == 0, errors
        assert printed.split() == [f"{3 * SIZE * SIZE / 16:.1f}"] * 5
    assert entries(tmp_path) == []
