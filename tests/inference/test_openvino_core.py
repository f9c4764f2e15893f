"""OpenVINO as graysam opens it: nothing is reported to anyone, and signals are survived."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
    "cores": "first, second = open_core(), open_core()",
    "predictors": "from graysam import Predictor as P\nfirst, second = (P({model!r}, cache=False) for _ in range(2))",
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
        [sys.executable, "-c", start + code], capture_output=True, text=True, cwd=home, env=environment
    )


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's signal stacks")
@pytest.mark.parametrize("what", OPENED)
def test_signals_are_survived_after_two_cores_are_deleted_in_order(
    tmp_path: Path, tiny_exported: Path, what: str
) -> None:
    """OpenVINO's own cores are killed by the signal; once they are not, the guard can go."""
    done = run(OPENED[what].format(model=str(tiny_exported)) + SIGNAL, tmp_path)
    wanted = (-signal.SIGSEGV, "") if what == "OpenVINO's own" else (0, "handled\n")
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
