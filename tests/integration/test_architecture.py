"""The folder tree keeps its promises: one-way imports, light `__init__` files, nothing unsafe, no hidden duplicates."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "graysam"
ENTRY_POINTS = {
    "train",
    "check",
    "pack",
    "predict",
    "evaluate",
    "export",
    "benchmark",
    "report",
    "probe",
    "findings",
    "workspace",
}

# What each part may import of graysam, besides itself.
ALLOWED = {
    "imaging": {"resources"},
    "surface": set(),
    "metrics": {"surface"},
    "overlay": {"imaging", "files"},
    "data": {"imaging", "terminal", "files"},
    "models": {"imaging", "files", "resources"},
    "training": {
        "resources",
        "data",
        "models",
        "metrics",
        "imaging",
        "overlay",
        "files",
        "runtime",
        "terminal",
        "environment",
    },
    "config": {"resources", "terminal", "reporting"},
    "reporting": {"files", "imaging", "data", "metrics", "terminal"},
    # What paper, code and metric say, computed anew: it looks at all of them.
    "claims": {"files", "imaging", "data", "metrics", "models", "runtime", "config", "resources", "reporting"},
    "resources": set(),
    "files": set(),
    "environment": set(),
    "extras": set(),
    "terminal": set(),
    "overlapping": set(),
    "benchmarking": {
        "runtime",
        "imaging",
        "data",
        "models",
        "config",
        "metrics",
        "reporting",
        "files",
        "terminal",
        "extras",
        "environment",
    },
    "timing": {"runtime"},
    "probing": {"imaging", "data", "metrics", "runtime"},
}
# The session side of the runtime runs without torch; its torch side may know the models.
RUNTIME = {
    "volume": {"imaging"},
    "bundle": {"imaging", "files"},
    "locating": {"files", "resources"},
    "model_cache": {"files"},
    "session": {"imaging", "resources"},
    "telemetry": set(),
    "signal_stack": set(),
    "core": set(),
    "teacher": {"config", "models"},
    "openvino_backend": set(),
    "torch_backend": {"models"},
    "encoder_graph": {"models"},
    "decoder_graph": {"models"},
    "conversion": {"models"},
    "calibration": set(),
    "graph_files": set(),
    "rounding": set(),
    "parity": {"metrics"},
    # From any model to a checked bundle: it brings together what else stays apart.
    "exporting": {"config", "data", "environment", "imaging", "models", "resources", "terminal"},
    "quantize/kinds": {"models"},
    "quantize/kind": {"imaging", "models"},
    "quantize/engines": {"imaging", "models"},
    "quantize/tracing": {"models"},
    "onnx_export": {"models"},
    "onnx_backend": set(),
    "quantize/accounting": {"models"},
    "quantize/timing": {"terminal"},
    "__init__": set(),
    "quantize/__init__": set(),
}
HEAVY = ("torch", "lightning", "hydra", "omegaconf", "timm")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            if node.module == "graysam":
                yield from (f"graysam.{name.name}" for name in node.names)


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("graysam.")}
    assert not ours & ENTRY_POINTS, "nobody imports an entry point"
    if part in ENTRY_POINTS or part == "__init__":
        return
    allowed = (
        RUNTIME[path.relative_to(PACKAGE / "runtime").with_suffix("").as_posix()]
        if part == "runtime"
        else ALLOWED[part]
    )
    assert ours - {part} <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_config_module_knows_hydra(path: Path) -> None:
    if part_of(path) != "config":
        assert not [name for name in imports(path) if name.split(".")[0] in ("hydra", "omegaconf")]


def test_init_files_hold_a_docstring_only() -> None:
    for path in PACKAGE.glob("*/**/__init__.py"):  # the package's own exports its public names lazily
        body = ast.parse(path.read_text()).body
        assert len(body) <= 1, path
        assert all(isinstance(node, ast.Expr) for node in body), path


@pytest.mark.parametrize(
    "module",
    [
        "graysam.predict",
        "graysam.evaluate",
        "graysam.benchmark",
        "graysam.report",
        "graysam.probe",
        "graysam.reproduction.checks",
        "graysam.inference.volume",
        "graysam.inference.predictor",
        "graysam.inference.openvino_backend",
        "graysam.inference.onnx_backend",
        "graysam.imaging.presets",
        "graysam.io.cases",
    ],
)
def test_laptop_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_nothing_unpickles() -> None:
    for path in MODULES:
        text = path.read_text()
        for unsafe in (
            "allow_pickle=True",
            "weights_only=False",
            "pickle.load",
            ".decode('rgb",
            '.decode("pil',
        ):
            assert unsafe not in text, f"{path}: {unsafe}"


def test_modules_stay_short() -> None:
    long = {str(p.relative_to(ROOT)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 400}
    assert not long
