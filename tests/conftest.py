"""Shared fixtures; heavy libraries are imported inside the tests that need them."""

import logging
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from graysam.inference.openvino_core import disable_telemetry, signal_stack_kept

GOLDENS = Path(__file__).parent / "goldens"
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores, and so one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
disable_telemetry()  # tests import OpenVINO themselves


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Return the folder of numbers that the original code printed."""
    return GOLDENS


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data beside the checkout; tests that need it skip where it is absent."""
    path = Path(os.environ.get("GRAYSAM_SHARED", Path(__file__).parents[2] / "shared"))
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture(scope="session")
def medseg_mini(shared: Path) -> Path:
    """Return the folder of real images with masks; skips only where it is absent."""
    path = shared / "medseg_mini"
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small synthetic shards."""
    from tests.support.shards import make_shards

    return make_shards(tmp_path_factory.mktemp("toy") / "shards")


@pytest.fixture(scope="session")
def tiny_exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a bundle that segments what is bright in a box; not to be altered."""
    from tests.support.exported_models import write_tiny_exported

    return write_tiny_exported(tmp_path_factory.mktemp("bundles") / "tiny").path


@pytest.fixture
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder, not there yet, that is the user's cache for one test."""
    monkeypatch.setenv("GRAYSAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def threads() -> Iterator[None]:
    """Give the process its numbers of threads back."""
    import cv2

    torch = sys.modules.get("torch")
    before = cv2.getNumThreads(), torch.get_num_threads() if torch else 0
    yield
    cv2.setNumThreads(before[0])
    if torch:
        torch.set_num_threads(before[1])


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace the same network for OpenVINO or ONNX once in all tests that ask for this."""
    from graysam.exporting import conversion
    from tests.support.traces import remembering, remembering_files

    monkeypatch.setattr(conversion, "_trace", remembering(conversion._trace))
    monkeypatch.setattr(conversion, "export_onnx", remembering_files(conversion.export_onnx))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Take back what a command or library that a test calls in this process does to logging for all that follow."""
    if absl := sys.modules.get("absl.logging"):
        # OpenVINO's converter imports it; its handler keeps the standard error of that moment, which is pytest's own
        # capture, and closes it when Hydra sets logging up.
        absl.get_absl_handler().python_handler.stream = sys.__stderr__
    root = logging.getLogger()
    level, handlers, known = root.level, root.handlers[:], root.manager.loggerDict
    disabled = {name for name, logger in known.items() if getattr(logger, "disabled", False)}
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for name in known.keys() - disabled:  # `logging.config.dictConfig` disables every other library's loggers
        known[name].disabled = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Keep the engines that tests and their fixtures start from leaving a dead signal stack to the next test."""
    with signal_stack_kept():
        return (yield)
