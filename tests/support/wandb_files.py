"""Reading W&B's offline files back, and runs without an account that leave no background process."""

import json
import os
import struct
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

BLOCK = 32768  # the file is a LevelDB log: blocks of chunks, each (checksum, length, kind) and bytes
HEADER = struct.Struct("<IHB")


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
    position, parts = 7, b""
    while position + HEADER.size <= len(data):
        if (left := BLOCK - position % BLOCK) < HEADER.size:
            position += left
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size + length
        parts += data[position - length : position]
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def read_wandb(path: Path) -> WandbFile:
    """Read a `.wandb` file."""
    found = WandbFile()
    for record in records(path):
        if record.HasField("run"):
            found.id, found.name, found.group = record.run.run_id, record.run.display_name, record.run.run_group
            found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif record.HasField("history"):
            for item in record.history.item:
                place = found.rows[record.history.step.num]
                *outer, last = item.nested_key or [item.key]
                for key in outer:
                    place = place.setdefault(key, {})
                place[last] = json.loads(item.value_json)
        elif record.HasField("exit"):
            found.exit_code = record.exit.exit_code
    return found


def wandb_files(run_dir: Path) -> list[Path]:
    """Return a run's offline files, oldest first."""
    return sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name)


def read(run_dir: Path) -> list[WandbFile]:
    """Return what a run's W&B files hold, oldest first, when the background process has written all and ended."""
    wandb.teardown()
    return [read_wandb(path) for path in wandb_files(run_dir)]


@contextmanager
def without_account(home: Path) -> Iterator[None]:
    """Let wandb find no account and no network, and see that its background process ends."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "MODE", "PROJECT", "ENTITY", "DATA_DIR"):
            patch.delenv(f"WANDB_{name}", raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("NETRC", str(home / "netrc"))
        patch.setenv("WANDB_CONFIG_DIR", str(home / "config"))
        patch.setenv("WANDB_CACHE_DIR", str(home / "cache"))
        patch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing answers there
        wandb.teardown()
        yield
        wandb.teardown()
        lines = [(process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
        ours = [p for p, line in lines if str(os.getpid()) in line and any("wandb-core" in part for part in line)]
        assert not psutil.wait_procs(ours, timeout=20)[1]
