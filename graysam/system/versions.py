"""What a result depends on besides its code: the processor and the versions of packages."""

import importlib.metadata
import os
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


def machine() -> dict[str, Any]:
    """Return the processor, the number of its logical cores that this process may use, and the operating system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"]
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "system": platform.platform()}
