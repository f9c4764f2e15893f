"""A run's directory: its stored config, the guard against mixing two runs, and the checkpoint to go on from."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graysam.files import replacing

# Settings that change how a run is carried out and not what it computes; they may differ when a run goes on.
FREE_KEYS = ("threads", "data.num_workers", "data.pin_memory", "trainer.max_time", "callbacks.progress.plain_seconds")


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
        if before.get(key) != after.get(key) and key not in FREE_KEYS
    ]


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
        self._summary_file = path / "summary.json"
        if self._config_file.is_file():
            differing = differing_keys(json.loads(self._config_file.read_text()), self.config)
            if differing:
                raise ValueError(
                    f"{path} holds a run of another config ({'; '.join(differing)}); "
                    "give another name=..., or delete that directory"
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} exists, but is no run of graysam; give another name=... or run_dir=...")

    def claim(self) -> None:
        """Make the folder and store the config; call it when everything the run needs has been built."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._config_file.is_file():
            write_json(self._config_file, self.config)

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, or None for a fresh start."""
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    @property
    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the best monitored value so far, or None."""
        path = self.path / "checkpoints" / "best.ckpt"
        return path if path.is_file() else None

    def read_summary(self) -> dict[str, Any]:
        """Return what the run has found out so far; empty for a fresh start."""
        return json.loads(self._summary_file.read_text()) if self._summary_file.is_file() else {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Store what the run has found out."""
        write_json(self._summary_file, summary)
