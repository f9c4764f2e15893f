"""What a result depends on beside its code: the processor and the versions of packages. Imports nothing heavy."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

NOT_INSTALLED = "not installed"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package, by its name at the package index; NOT_INSTALLED where there is none."""
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


def cores() -> int | None:
    """Return how many cores this process may use, None where the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
