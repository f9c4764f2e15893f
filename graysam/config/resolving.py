"""Resolving a config's interpolations one by one, so that all that fail are found, not the first."""

import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from graysam.config.annotations import UNKNOWN
from graysam.config.messages import first_line, meant
from graysam.config.signatures import Problem, join

_NOT_FOUND = re.compile(r"Interpolation key '(.+)' not found")
_LINK = re.compile(r"\$\{([\w.]+)\}")


@dataclass
class Values:
    """Resolves interpolations one by one, so that all that fail are found.

    problems: what does not resolve. links: by key path, the key path whose value stands there.
    """

    config: DictConfig
    problems: list[Problem] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)

    def resolve(self, raw: Any, path: str) -> Any:
        """Return a node with its values resolved, UNKNOWN for those that do not resolve."""
        if isinstance(raw, dict):
            return {key: self.resolve(value, join(path, key)) for key, value in raw.items()}
        if isinstance(raw, list):
            return [self.resolve(value, f"{path}[{index}]") for index, value in enumerate(raw)]
        if raw == "???":
            self.problems.append(Problem(path, "is ???; required: a value"))
            return UNKNOWN
        if not isinstance(raw, str) or "${" not in raw:
            return raw
        if link := _LINK.fullmatch(raw):
            self.links[path] = link[1]
        try:
            value = OmegaConf.select(self.config, path, throw_on_missing=True)
            return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except (OmegaConfBaseException, ValueError) as error:
            self._explain(raw, path, error)
            return UNKNOWN

    def _explain(self, raw: str, path: str, error: Exception) -> None:
        """Note why a value does not resolve, unless the reason stands at the key that it refers to."""
        missing = _NOT_FOUND.search(str(error))
        if missing and missing[1] in raw:
            paths = _paths(OmegaConf.to_container(self.config, resolve=False), "")
            self.problems.append(Problem(path, f"is {raw!r}; there is no key {missing[1]!r}{meant(missing[1], paths)}"))
        elif not missing and not isinstance(error, InterpolationToMissingValueError) and "${hydra:" not in raw:
            self.problems.append(Problem(path, f"is {raw!r}, which does not resolve: {first_line(error)}"))


def _paths(node: Any, path: str) -> list[str]:
    """Return all key paths below a node."""
    if not isinstance(node, dict):
        return []
    below = [(join(path, key), value) for key, value in node.items()]
    return [name for key, value in below for name in (key, *_paths(value, key))]
