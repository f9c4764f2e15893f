"""A run's directory: its stored config, the guard against mixing two runs, and the checkpoint to go on from."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
SUMMARY_FILE = "summary.json"
LAST_CHECKPOINT = "checkpoints/last.ckpt"

# Settings that change how a run is carried out and not what it computes; they may differ when a run goes on.
FREE_KEYS = (
    "threads",
    "data.num_workers",
    "data.pin_memory",
    "trainer.max_time",
    "callbacks.progress.plain_seconds",
)


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    temporary.replace(path)


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


def open_run(run_dir: Path, config: Mapping[str, Any]) -> Path | None:
    """Make or reopen a run's directory and return the checkpoint to go on from, or None for a fresh start.

    Raises:
        ValueError: the directory holds a run of another config; the differing keys are listed.
    """
    config = json.loads(json.dumps(config))  # as the file will hold it
    path = run_dir / CONFIG_FILE
    if path.is_file():
        stored = json.loads(path.read_text())
        differing = differing_keys(stored, config)
        if differing:
            raise ValueError(
                f"{run_dir} holds a run of another config ({'; '.join(differing)}); "
                "give another name=..., or delete that directory"
            )
    elif run_dir.is_dir() and any(run_dir.iterdir()):
        raise ValueError(f"{run_dir} exists, but is no run of graysam; give another name=... or run_dir=...")
    else:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(path, config)
    last = run_dir / LAST_CHECKPOINT
    return last if last.is_file() else None
