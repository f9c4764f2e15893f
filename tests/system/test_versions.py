"""What results say about where they were computed."""

import importlib.metadata
import os
from pathlib import Path

import pytest

from graysam.system.environment import NOT_INSTALLED, machine, versions


def test_packages_are_named_with_their_versions_and_absent_ones_too() -> None:
    found = versions(["numpy", "no-such-package"])
    assert found == {"numpy": importlib.metadata.version("numpy"), "no-such-package": NOT_INSTALLED}


def test_the_machine_has_a_name_and_cores() -> None:
    assert machine()["cpu"]
    assert machine()["cores"] >= 1


def test_the_machine_is_described_where_nothing_is_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Path, **_: object) -> str:
        raise FileNotFoundError(self)

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert machine()["cpu"] == "arm"
    assert machine()["cores"] == os.cpu_count()
