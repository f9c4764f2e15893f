"""Folders: the package's own, in a wheel and in a checkout alike, and its user's cache."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """Return the folder of configuration files: `graysam/conf` in a wheel, the top-level `conf` in a checkout."""
    shipped = _PACKAGE / "conf"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "conf"


def weights_dir() -> Path:
    """Return the folder of the models that come with graysam; it may be absent."""
    return _PACKAGE / "weights"


def user_cache_dir() -> Path:
    """Return the folder of what can be made again: GRAYSAM_CACHE, else `graysam` where the platform keeps caches.

    Nothing is created.

    Raises:
        ValueError: the user has no home folder.
    """
    if chosen := os.environ.get("GRAYSAM_CACHE"):
        return Path(chosen)
    import platformdirs  # only here: GRAYSAM_CACHE does without

    try:
        return platformdirs.user_cache_path("graysam", appauthor=False)
    except RuntimeError:
        raise ValueError("there is no home folder to keep a cache in; set GRAYSAM_CACHE to a folder's name") from None
