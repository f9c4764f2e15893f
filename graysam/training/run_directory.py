"""A run's directory: its config, its origin, the guard against mixing two runs, and the checkpoint to resume from."""

import json
import logging
import platform
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from graysam.reporting.schemas import CONFIG, RUN, SUMMARY, read_json_object
from graysam.system.environment import UNSUPPORTED, conf_dir, machine, versions
from graysam.system.files import sha256_of, write_json_file
from graysam.training.checkpoints import LAST, PREVIOUS, damage

REMNANT = re.compile(r"\.lock|.*\.tmp")  # a file of a run that was killed before it stored its config
PACKAGES = ("graysam", "torch", "torchvision", "timm", "lightning", "hydra-core", "numpy", "opencv-python-headless")
# Settings that do not change what a run computes; they may differ when it is resumed.
FREE_KEYS = (
    *("threads", "data.num_workers", "data.pin_memory", "logger", "quantize"),
    *("callbacks.quantization", "callbacks.progress", "callbacks.resume", "callbacks.validation_report"),
    "callbacks.benchmark",  # callbacks.quantization in earlier runs
    "data.drop_leaked",  # a run on folders that leak never starts without it
)
log = logging.getLogger(__name__)


class RunDirectory:
    """The folder of one run, guarded by the config it was started with.

    Args:
        path: the folder; it is made by `lock` or `claim`.
        config: plain containers.

    Raises:
        ValueError: the folder holds a run of another config (the differing keys are listed), or something else.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = json.loads(json.dumps(config))  # as the file will hold it
        self.config_file, self.run_file, self.summary_file = (path / name for name in (CONFIG, RUN, SUMMARY))
        if self.config_file.is_file():
            if differing := differing_keys(read_json_object(self.config_file), self.config):
                raise ValueError(
                    f"{path} holds a run of another config ({'; '.join(differing)}); "
                    "give another name=..., or delete that directory"
                )
        elif path.exists() and not (path.is_dir() and all(REMNANT.fullmatch(entry.name) for entry in path.iterdir())):
            raise ValueError(f"{path} exists, but is no run of graysam; give another name=... or run_dir=...")

    def claim(self, *, ranks: int, weights: Sequence[dict[str, Any]], shards_dirs: Sequence[Path]) -> None:
        """Make the folder and store the config, a new run's origin, and the command and time of this start.

        `ranks` processes train together from weights of the sources `weights`, as plain containers. Raises ValueError
        where the run was started with other shards.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        shards = [{"path": str(path), "manifest_sha256": sha256_of(path / "manifest.json")} for path in shards_dirs]
        if self.run_file.is_file():
            origin = read_json_object(self.run_file)
        else:
            origin = {
                "name": self.config["name"],
                "seed": self.config["seed"],
                "id": secrets.token_hex(4),
                "ranks": ranks,
                "git": git_state(),
                "versions": {"python": platform.python_version(), **versions(PACKAGES)},
                "weights": list(weights),
                "shards": shards,
                "machine": training_machine(),
                "starts": [],
            }
        if origin.get("shards") != shards:
            raise ValueError(f"{self.path} was started with other shards, see run.json; give another name, or those")
        if not self.config_file.is_file():  # first, because it marks the folder as a run's
            write_json_file(self.config_file, self.config)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        origin["starts"].append({"command": shlex.join(sys.orig_argv), "time": now})
        write_json_file(self.run_file, origin)

    def lock(self) -> AbstractContextManager[Any]:
        """Keep other processes from this run; the system frees the lock when the process ends in any way.

        On a file system without locks the run goes on unguarded, with a warning.

        Raises:
            ValueError: another process is running it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            # A marker file in place of the lock would outlive a killed process and keep it from being resumed.
            return FileLock(self.path / ".lock", timeout=0, fallback_to_soft=False).acquire()
        except Timeout:
            raise ValueError(f"another process is at work in {self.path}; wait for it, or give another name") from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            log.warning("no lock is possible in %s; do not start it twice", self.path)
            return nullcontext()

    def find_last_checkpoint(self) -> Path | None:
        """Return the newest intact checkpoint to resume from, or None for a fresh start.

        Damaged ones are renamed, so that they do not replace an intact one when the next is stored.

        Raises:
            ValueError: there are checkpoints, but all are damaged.
        """
        folder = self.path / "checkpoints"
        for path in (folder / LAST, folder / PREVIOUS):
            if path.exists():
                problem = damage(path)
                if problem is None:
                    return path
                log.warning("%s is damaged (%s); trying the checkpoint before it", path, problem)
                path.replace(path.with_name(f"damaged-{path.name}"))
        if any(folder.glob("damaged-*")):
            raise ValueError(f"no checkpoint in {folder} is intact; delete {self.path} to start again")
        return None

    def read_summary(self) -> dict[str, Any]:
        """Return the stored results of the run; empty for a fresh start."""
        return read_json_object(self.summary_file) if self.summary_file.is_file() else {}


def differing_keys(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return `key: stored -> given` of every setting that differs, except FREE_KEYS."""
    before, after = dict(_flatten(stored)), dict(_flatten(given))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not f"{key}.".startswith(tuple(f"{free}." for free in FREE_KEYS))
    ]


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, content


def git_state() -> dict[str, Any] | None:
    """Return the checkout's commit and its uncommitted changes; None where graysam does not run from a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(conf_dir().parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, errors="replace").stdout

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__)))  # fails for an installation inside another repository
        status, difference = git("status", "--porcelain"), git("diff", "HEAD")
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(status), "status": status, "diff": difference}
    except (OSError, subprocess.CalledProcessError):
        return None


def training_machine() -> dict[str, Any]:
    """Return the facts of `machine`, torch's threads, and the GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {**machine(), "threads": torch.get_num_threads(), "gpus": gpus}
