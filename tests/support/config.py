"""Compose a config of the project as a command does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graysam.config.composing import compose_config, to_plain
from graysam.system.environment import conf_dir


def compose_plain(config_name: str, overrides: Sequence[str] = (), conf: Path | None = None) -> dict[str, Any]:
    return to_plain(compose_config(config_name, overrides, conf or conf_dir()))
