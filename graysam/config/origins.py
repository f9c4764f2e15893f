"""Where the value at a key path of a composed config was set: by which override, or in which file."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.types import RunMode

from graysam.config.faults import parse
from graysam.config.sources import loader_of, read_yaml


class Origins:
    """The overrides and files that a config was composed of.

    Args:
        conf: folder of configs; config_name and overrides: what was composed, without a mistake.
    """

    def __init__(self, conf: Path, config_name: str, overrides: Sequence[str]) -> None:
        parsed = [parse(line) for line in overrides]
        choices = [override for override in parsed if (conf / override.key_or_group).is_dir()]
        self.overrides = {o.key_or_group: str(o.input_line) for o in parsed if o not in choices}
        with loader_of(conf) as loader:
            defaults = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN).defaults
        self.files = [(conf / f"{d.config_path}.yaml", d.package or "") for d in defaults]
        self.files = [(path, package) for path, package in reversed(self.files) if path.is_file()]
        self.read = cache(read_yaml)
        self.conf = conf
        self.top = f"{conf.name}/{config_name}.yaml"

    def of(self, path: str) -> str:
        """Return the override or the file that set a key path last.

        A key that is set nowhere, a missing one, belongs to where its owner's `_target_` stands, or else its owner.
        """
        path = path.partition("[")[0]
        for key, line in reversed(self.overrides.items()):
            if f"{path}.".startswith(f"{key}."):
                return line
        for file, package in self.files:
            inside = f"{path}.".startswith(f"{package}.") if package else True
            if inside and _holds(self.read(file), path.removeprefix(package).removeprefix(".")):
                return f"{self.conf.name}/{file.relative_to(self.conf)}"
        owner, _, key = path.rpartition(".")
        if not owner:
            return self.top
        return self.of(owner if key == "_target_" else f"{owner}._target_")


def _holds(content: Any, path: str) -> bool:
    """Tell whether a mapping has a key path."""
    for key in path.split(".") if path else []:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True
