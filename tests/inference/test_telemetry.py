"""Nothing is reported to anyone: neither by OpenVINO's import nor by its converter nor by NNCF."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONVERTS = """
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__, sys.modules["openvino_telemetry"])
"""


def run(code: str, home: Path) -> str:
    """Run code where OpenVINO would report: in a fresh home folder and outside of any CI."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"import sys\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=home, env=environment).stdout.strip()


def test_where_graysam_imports_openvino_first_there_is_nothing_to_report_with(tmp_path: Path) -> None:
    code = "from graysam.inference import telemetry\ntelemetry.switch_off()\nimport openvino" + CONVERTS
    assert run(code, tmp_path) == "openvino.tools.ovc.telemetry_stub None"
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
from graysam.inference import telemetry
telemetry.switch_off()
sender.send(Web(), "after")
sender.executor.shutdown()
print(sent)
"""
    assert run(code, tmp_path) == "['before']"


def test_whoever_imports_openvino_first_switches_it_off() -> None:
    starts = ("import openvino as ov  # noqa: E402", "import openvino.opset13 as op  # noqa", "import openvino  # noqa")
    for path in sorted((ROOT / "graysam").rglob("*.py")):
        text = path.read_text()
        if any(start in text for start in starts):
            assert "telemetry.switch_off()" in text, path


def test_cores_are_opened_in_one_place() -> None:
    for path in sorted((ROOT / "graysam").rglob("*.py")):
        if path != ROOT / "graysam" / "runtime" / "core.py":
            assert not re.search(r"\bCore\(\)", path.read_text()), f"{path}: graysam.inference.openvino_core opens them"
