"""Where a run's numbers come from: code, packages, weights, shards, machine."""

import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from graysam.system.files import sha256_of
from graysam.system.folders import conf_dir
from graysam.system.versions import cores, processor_name, versions

PACKAGES = ("graysam", "torch", "torchvision", "timm", "lightning", "hydra-core", "numpy", "opencv-python-headless")


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return a checkout's commit, whether its tracked files differ from it, and the difference; None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, errors="replace").stdout

    try:
        git("ls-files", "--error-unmatch", str(Path(__file__)))  # an installation inside some other repository is none
        commit = git("rev-parse", "HEAD").strip()
        difference = git("diff", "HEAD")
        untracked = git("ls-files", "--others", "--exclude-standard", "--full-name", "-z").split("\0")[:-1]
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(difference or untracked), "untracked": untracked, "diff": difference}


def machine() -> dict[str, Any]:
    """Return the processor, its cores, torch's threads, and the GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": processor_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "system": platform.platform(),
    }


def start() -> dict[str, str]:
    """Return the command of this process and the time, UTC."""
    return {"command": shlex.join(sys.orig_argv), "time": datetime.now(UTC).isoformat(timespec="seconds")}


def provenance(
    *, name: str, seed: int, ranks: int, weights: Sequence[dict[str, Any]], shards_dirs: Sequence[Path]
) -> dict[str, Any]:
    """Return all of it as plain containers, with a random id of eight hexadecimal digits for the run.

    ranks: processes that train together, which a config's `devices: auto` does not tell.
    """
    return {
        "id": secrets.token_hex(4),
        "name": name,
        "seed": seed,
        "ranks": ranks,
        "git": git_state(conf_dir().parent),
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
        "weights": list(weights),
        "shards": [{"path": str(path), "manifest_sha256": sha256_of(path / "manifest.json")} for path in shards_dirs],
        "machine": machine(),
    }
