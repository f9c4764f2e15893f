"""A process's own peak of resident memory."""

import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> bool:
    """Let the peak count from now on; False where the system cannot (it then counts from the process's start)."""
    try:
        _CLEAR.write_text("5")  # Linux: sets VmHWM to the present size
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Return the peak in bytes, None where the system does not tell."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
