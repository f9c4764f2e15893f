"""What a result depends on besides its code: the processor and the versions of packages."""

import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NOT_INSTALLED = "not installed"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package, by its name at the package index, or NOT_INSTALLED."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = NOT_INSTALLED
    return found


def processor_name() -> str:
    """Return the processor's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def machine() -> dict[str, Any]:
    """Return the processor, the number of its cores that this process may use, and the operating system."""
    return {"cpu": processor_name(), "cores": cores(), "system": platform.platform()}


def cores() -> int | None:
    """Return how many logical cores this process may use, None where the system does not report it."""
    import psutil

    return len(psutil.Process().cpu_affinity() or ()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
