"""Signals after OpenVINO: its cores leave a dead signal stack behind, graysam's do not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIGNAL = """
import gc, os, signal
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
TWO_CORES = """
from graysam.inference import telemetry
from graysam.inference.openvino_core import open_core
telemetry.switch_off()
import openvino

def plain_core():
    core = openvino.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")
    return core

first, second = {opened}(), {opened}()
del first
del second
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's signal stacks")
def test_signals_are_survived_after_cores_that_went_in_the_order_they_came() -> None:
    done = run(TWO_CORES.format(opened="open_core") + SIGNAL)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's signal stacks")
def test_openvino_still_needs_this() -> None:
    """Fail once OpenVINO is mended, so that the guard can go."""
    assert run(TWO_CORES.format(opened="plain_core") + SIGNAL).returncode == -signal.SIGSEGV


def test_signals_are_survived_after_sessions(tiny_exported: Path) -> None:
    code = f"""
from graysam.inference.predictor import Predictor
first, second = (Predictor({str(tiny_exported)!r}, cache=False) for _ in range(2))
del first
del second
"""
    done = run(code + SIGNAL)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
