"""The package's structure: imports between rooms, light `__init__` files, nothing unsafe, short modules."""

import ast
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "graysam"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "lightning", "hydra", "omegaconf", "timm", "pandas")
LAPTOP = (
    "graysam",
    "graysam.predict",
    "graysam.evaluate",
    "graysam.benchmark",
    "graysam.report",
    "graysam.probe",
    "graysam.reproduction.checks",
    "graysam.inference.segmentation",
    "graysam.inference.predictor",
    "graysam.inference.backend",
    "graysam.imaging.drawing",
    "graysam.imaging.channels",
    "graysam.io.cases",
)


def test_rooms_import_as_the_contracts_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The contracts are in pyproject.toml."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True, no_logo=True) == 0, capsys.readouterr().out


def test_only_config_knows_hydra_and_no_import_is_relative() -> None:
    forbidden = re.compile(r"^\s*(from \.|(import|from) (hydra|omegaconf)\b)", re.MULTILINE)
    outside = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] != "config"]
    assert not [str(path) for path in outside if forbidden.search(path.read_text())]


def test_init_files_of_rooms_are_a_docstring() -> None:
    for path in PACKAGE.glob("*/**/__init__.py"):
        (docstring,) = ast.parse(path.read_text()).body
        assert isinstance(docstring, ast.Expr), path


def test_laptop_modules_import_nothing_heavy() -> None:
    code = f"import sys, {', '.join(LAPTOP)}; print([name for name in {HEAVY!r} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "[]\n"


def test_nothing_unpickles() -> None:
    unsafe = ("allow_pickle=True", "weights_only=False", "pickle.load", ".decode('rgb", '.decode("pil')
    found = {(str(path), text) for path in MODULES for text in unsafe if text in path.read_text()}
    assert not found


def test_modules_are_short() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: count for name, count in lines.items() if count > 400}
    assert statistics.median(count for name, count in lines.items() if not name.endswith("__init__.py")) <= 150
