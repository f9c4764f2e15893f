"""Reading W&B's offline files back, and knowing whether its background process still runs."""

import json
import os
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

ACCOUNT = (
    "WANDB_API_KEY",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_MODE",
    "WANDB_PROJECT",
    "WANDB_ENTITY",
    "WANDB_DATA_DIR",
)
BLOCK = 32768  # the file is a LevelDB log: blocks of records, each (checksum, length, kind) and bytes
HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbFile:
    """What one start of a run left: run, config, rows by step (values decoded), exit code (None: was killed)."""

    id: str = ""
    name: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    exit_code: int | None = None


def records(path: Path) -> Iterator[Record]:
    """Yield the records of a `.wandb` file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + HEADER.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER.size:
            position += left
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        assert kind in (FULL, FIRST, MIDDLE, LAST)
        parts += data[position + HEADER.size : position + HEADER.size + length]
        position += HEADER.size + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_wandb(path: Path) -> WandbFile:
    """Read a `.wandb` file."""
    found = WandbFile()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.id, found.name, found.group = record.run.run_id, record.run.display_name, record.run.run_group
            found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            row = found.rows[record.history.step.num]
            for item in record.history.item:
                place = row
                *outer, last = item.nested_key or [item.key]
                for key in outer:
                    place = place.setdefault(key, {})
                place[last] = json.loads(item.value_json)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def wandb_files(run_dir: Path) -> list[Path]:
    """Return a run's offline files, oldest first."""
    return sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name)


def background_processes() -> list[int]:
    """Return the wandb processes that this process has started and that still run."""
    lines = ((process.pid, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    return [pid for pid, line in lines if str(os.getpid()) in line and any("wandb-core" in part for part in line)]


def wait_until_gone(seconds: float) -> bool:
    """Say whether the background processes end within some seconds."""
    until = time.monotonic() + seconds
    while background_processes() and time.monotonic() < until:
        time.sleep(0.05)
    return not background_processes()


def read(run_dir: Path) -> list[WandbFile]:
    """Return what a run's W&B files hold, oldest first, when the background process has written all and ended."""
    wandb.teardown()
    return [read_wandb(path) for path in wandb_files(run_dir)]


@contextmanager
def without_account(home: Path) -> Iterator[None]:
    """Let wandb find no account and no network, and see that its background process ends."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ACCOUNT:
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        patch.setenv("WANDB_CONFIG_DIR", str(home / "config"))
        patch.setenv("WANDB_CACHE_DIR", str(home / "cache"))
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing answers there
        wandb.teardown()
        yield
        wandb.teardown()
        assert wait_until_gone(20), background_processes()
