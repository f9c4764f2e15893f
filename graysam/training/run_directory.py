"""A run's directory: its stored config, the guard against mixing two runs, and the checkpoint to go on from."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from graysam.system.files import replacing
from graysam.training.checkpoints import BEST, LAST, PREVIOUS, damage

LOCK = ".lock"
log = logging.getLogger(__name__)

# Settings that change how a run is carried out and not what it computes; they may differ when a run goes on.
FREE_KEYS = (
    "threads",
    "data.num_workers",
    "data.pin_memory",
    "logger",
    "quantize",
    "callbacks.benchmark",
    "callbacks.progress",
    "callbacks.resume",
    "callbacks.validation_report",
)


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name and rename it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, content


def differing_keys(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return `key: stored -> given` of every setting that differs, free ones left out."""
    before, after = dict(_flatten(stored)), dict(_flatten(given))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not _is_free(key)
    ]


def _is_ours(path: Path) -> bool:
    """Say whether a file may be what a run left that was killed before it stored its config."""
    return path.name == LOCK or path.name.endswith(".tmp")


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def read_json(path: Path) -> Any:
    """Read a JSON file of a run; raises ValueError, saying what to do, when it is damaged."""
    try:
        return json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete {path.parent} to run again") from None


class RunDirectory:
    """The folder of one run, guarded by the config it was begun with.

    Args:
        path: the folder; it is not made before `claim`.
        config: plain containers.

    Raises:
        ValueError: the folder holds a run of another config (the differing keys are listed), or something else.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = json.loads(json.dumps(config))  # as the file will hold it
        self._config_file = path / "config.json"
        self._run_file = path / "run.json"
        self._summary_file = path / "summary.json"
        self._lock: IO[str] | None = None
        self._holds = False
        if self._config_file.is_file():
            differing = differing_keys(read_json(self._config_file), self.config)
            if differing:
                raise ValueError(
                    f"{path} holds a run of another config ({'; '.join(differing)}); "
                    "give another name=..., or delete that directory"
                )
        elif path.exists() and (not path.is_dir() or any(not _is_ours(entry) for entry in path.iterdir())):
            raise ValueError(f"{path} exists, but is no run of graysam; give another name=... or run_dir=...")

    def claim(self, origin: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        """Make the folder and store the config and the run's origin; call it when everything has been built.

        Args:
            origin: `provenance()` of a run that begins; one that goes on keeps its own.
            start: `start()` of this process; a run lists all of them.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        known = read_json(self._run_file) if self._run_file.is_file() else {**origin, "starts": []}
        before, now = (
            ", ".join(shards["manifest_sha256"][:8] for shards in entry.get("shards", [])) for entry in (known, origin)
        )
        if before != now:
            raise ValueError(
                f"{self.path} was begun with other shards (manifest {before}, now {now}); "
                "give another name=..., or the shards of before"
            )
        if not self._config_file.is_file():  # first: by it a folder is known as a run's
            write_json(self._config_file, self.config)
        known["starts"].append(dict(start))
        write_json(self._run_file, known)

    def lock(self) -> None:
        """Keep other processes from this run until `unlock`, or until this process ends in whatever way.

        Raises:
            ValueError: another process is at work in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / LOCK).open("w")
        if sys.platform == "win32":  # which has no such lock
            return
        import fcntl

        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._holds = True
        except BlockingIOError:
            self.unlock()
            raise ValueError(f"another process is at work in {self.path}; wait for it, or give another name") from None

    def unlock(self) -> None:
        """Let others in; nothing happens where this process never locked the run."""
        if self._lock is not None:
            if self._holds:
                (self.path / LOCK).unlink(missing_ok=True)
            self._lock.close()
            self._lock, self._holds = None, False

    def find_last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint to go on from whose bytes are whole, or None for a fresh start.

        A damaged one is put aside, so that it does not take the place of a whole one when the next is stored.

        Raises:
            ValueError: there are checkpoints, but all are damaged.
        """
        folder = self.path / "checkpoints"
        candidates = [path for path in (folder / LAST, folder / PREVIOUS) if path.exists()]
        damaged: list[Path] = []
        for path in candidates:
            wrong = damage(path)
            if wrong is None:
                for other in damaged:
                    other.replace(other.with_name(f"damaged-{other.name}"))
                return path
            log.warning("%s is damaged (%s), so the run goes on from the one before it", path, wrong)
            damaged.append(path)
        if candidates:
            raise ValueError(f"no checkpoint in {folder} is whole; delete {self.path} to begin again")
        return None

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the best monitored value so far, or None."""
        path = self.path / "checkpoints" / BEST
        return path if path.is_file() else None

    def read_summary(self) -> dict[str, Any]:
        """Return what the run has found out so far; empty for a fresh start."""
        return read_json(self._summary_file) if self._summary_file.is_file() else {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Store what the run has found out."""
        write_json(self._summary_file, summary)
