"""OpenVINO as graysam opens it: nothing is reported, signals are survived, and what is cached is right or not used."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from graysam.inference import openvino_core
from graysam.inference.openvino_core import compile_cached, open_core, thread_properties
from tests.support.exported_models import SIZE

ROOT = Path(__file__).parents[2]
CONVERTS = """
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__, sys.modules["openvino_telemetry"])
"""
SIGNAL = """
import gc, os, signal
del first
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
OPENED = {
    "graysam's": "first, second = open_core(), open_core()",
    "OpenVINO's own": """
disable_telemetry()
import openvino
first, second = openvino.Core(), openvino.Core()
for core in (first, second):
    core.get_property("CPU", "FULL_DEVICE_NAME")
del core
""",
}


def run(code: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run code where OpenVINO would report: in a fresh home folder and outside of any CI."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    start = "import sys\nfrom graysam.inference.openvino_core import disable_telemetry, open_core\n"
    return subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, cwd=home, env=environment, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's signal stacks")
@pytest.mark.parametrize("whose", OPENED)
def test_signals_are_survived_after_two_cores_are_deleted_in_order(tmp_path: Path, whose: str) -> None:
    """OpenVINO's own cores are killed by the signal; once they are not, the guard can go."""
    done = run(OPENED[whose] + SIGNAL, tmp_path)
    wanted = (-signal.SIGSEGV, "") if whose == "OpenVINO's own" else (0, "handled\n")
    assert (done.returncode, done.stdout) == wanted, done.stderr


def test_where_graysam_imports_openvino_first_there_is_nothing_to_report_with(tmp_path: Path) -> None:
    done = run("disable_telemetry()\nimport openvino" + CONVERTS, tmp_path)
    assert done.stdout == "openvino.tools.ovc.telemetry_stub None\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_after_somebody_elses_import_nothing_more_is_sent(tmp_path: Path) -> None:
    code = """
import openvino_telemetry.main as main
sent = []
class Web:
    def send(self, message):
        sent.append(message)
sender = main.TelemetrySender(max_workers=1)
sender.send(Web(), "before")
disable_telemetry()
sender.send(Web(), "after")
sender.executor.shutdown()
print(sent)
"""
    assert run(code, tmp_path).stdout == "['before']\n"


def test_whoever_imports_openvino_first_disables_it_and_one_module_opens_cores() -> None:
    starts = ("import openvino as ov  # noqa: E402", "import openvino.opset13 as op  # noqa", "import openvino  # noqa")
    for path in sorted((ROOT / "graysam").rglob("*.py")):
        text = path.read_text()
        assert "disable_telemetry()" in text or not any(start in text for start in starts), path
        assert path.name == "openvino_core.py" or not re.search(r"\bCore\(\)", text), path


IMAGES = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)


class CountingCore:
    """OpenVINO's core that reports how graphs came about."""

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


def load(exported: Path, cache_dir: Path | None, key: str = "key", **properties: Any) -> list[str]:
    """Return how the graph came about; check what it computes."""
    core: Any = CountingCore()
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", **properties}
    compiled = compile_cached(core, exported / "encoder.xml", properties, cache_dir, key)
    pooled = IMAGES.reshape(1, 3, SIZE // 4, 4, SIZE // 4, 4).mean(axis=(3, 5)).reshape(1, 3, -1).transpose(0, 2, 1)
    np.testing.assert_allclose(compiled([IMAGES])[0], pooled, atol=1e-6)
    return core.calls


def test_the_second_process_imports_what_the_first_compiled(tiny_exported: Path, tmp_path: Path) -> None:
    cache_dir = tmp_path / "not" / "there yet"
    assert load(tiny_exported, None) == ["compile"]
    assert load(tiny_exported, cache_dir) == ["compile"]
    assert load(tiny_exported, cache_dir) == ["import"]
    (entry,) = cache_dir.iterdir()
    assert entry.name.startswith("encoder-")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "digest alone": lambda content: content[:32],
    "truncated": lambda content: content[: len(content) // 2],
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "of a stranger": lambda content: openvino_core._digest(b"another machine", content[32:]) + content[32:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_never_imported_and_made_anew(
    tiny_exported: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    load(tiny_exported, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert load(tiny_exported, tmp_path) == ["compile"]
    assert load(tiny_exported, tmp_path) == ["import"]
    assert list(tmp_path.iterdir()) == [entry]


def test_what_openvino_does_not_import_is_compiled(
    tiny_exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("the model was exported with another version")

    load(tiny_exported, tmp_path)
    monkeypatch.setattr(CountingCore, "import_model", refuse)
    assert load(tiny_exported, tmp_path) == ["compile"]


@pytest.mark.parametrize("what", ["key", "property", "openvino", "cpu", "features"])
def test_another_graph_or_machine_is_another_entry(
    tiny_exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    load(tiny_exported, tmp_path)
    options = {"key": {"key": "other"}, "property": {"INFERENCE_NUM_THREADS": 1}}.get(what, {})
    if what == "openvino":
        monkeypatch.setattr(openvino, "__version__", "2099.1")
    elif what == "cpu":
        monkeypatch.setattr(CountingCore, "get_property", lambda *given: "of another kind")
    elif what == "features":
        monkeypatch.setattr(openvino_core, "_cpu_features", lambda: "flags: mmx")
    assert load(tiny_exported, tmp_path, **options) == ["compile"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(
    tiny_exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    assert load(tiny_exported, tmp_path / "file" / "below") == ["compile"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert load(tiny_exported, tmp_path / "full") == ["compile"]
    assert list((tmp_path / "full").iterdir()) == []


def test_a_number_of_threads_pins_none_to_a_core(tiny_exported: Path) -> None:
    """OpenVINO pins each process's threads to the first cores, so that parallel processes would share one."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    assert thread_properties(None) == {}
    for path in sorted(tiny_exported.glob("*.xml")):
        compiled = compile_cached(open_core(), path, thread_properties(1), None, "")
        assert compiled.get_property("ENABLE_CPU_PINNING") is False
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert before is None or os.sched_getaffinity(0) == before
