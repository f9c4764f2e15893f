"""Where files lie: the package's own, in a wheel and in a checkout alike, and what is kept for its user."""

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """Return the folder of configuration files: `graysam/conf` in a wheel, the top-level `conf` in a checkout."""
    shipped = _PACKAGE / "conf"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "conf"


def weights_dir() -> Path:
    """Return the folder of what is shipped to segment with; it may be absent."""
    return _PACKAGE / "weights"


def user_cache_dir() -> Path:
    """Return the folder of what can be made again: GRAYSAM_CACHE, else `graysam` where the platform keeps caches.

    Nothing is made. Raises ValueError where the user has no home folder.
    """
    if chosen := os.environ.get("GRAYSAM_CACHE"):
        return Path(chosen)
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "graysam"
    if sys.platform == "win32" and (chosen := os.environ.get("LOCALAPPDATA")):
        return Path(chosen) / "graysam" / "Cache"
    try:
        home = Path.home()
    except RuntimeError:
        raise ValueError("there is no home folder to keep a cache in; set GRAYSAM_CACHE to a folder's name") from None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "graysam"
