"""What a run of a sweep is called: the experiment's name, then the values that were chosen for it."""

import hashlib
import re
from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

OWN_PLACE = frozenset({"seed", "name", "experiment", "run_dir"})  # these choose a run directory without a label
LONGEST = 120  # file systems end at 255 bytes, dashboards earlier


def swept_keys(overrides: Sequence[Override], params: Collection[str]) -> set[str]:
    """Return the keys whose values tell a sweep's runs apart, those aside that choose a run directory by themselves.

    `params` are the keys of an experiment's own grid: they count where the command line gives one value, too, so that
    a part of a grid finds the whole grid's runs.
    """
    keys = {override.key_or_group for override in overrides if override.is_sweep_override()} | set(params)
    if any(override.key_or_group == "name" for override in overrides):  # then experiments do not bring theirs
        return keys - (OWN_PLACE - {"experiment"})
    return keys - OWN_PLACE


def label(overrides: Sequence[str], keys: Collection[str]) -> str:
    """Return the chosen values of some keys as a folder's name, e.g. `augment=flips,channels=paper`.

    It depends on nothing but these values: sorted by key, brackets and quotes left out, an empty list is `none`,
    other characters that trouble paths and shells become `-`; what is too long ends in a hash. "" without keys.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    chosen = {o.key_or_group: o.get_value_element_as_str() for o in parsed if o.key_or_group in keys}
    parts = []
    for key, value in sorted(chosen.items()):
        bare = re.sub(r"[\[\]{}()'\"\s\\]", "", value).replace(",", "+") or "none"
        parts.append(re.sub(r"[^\w.+=-]", "-", f"{key}={bare}", flags=re.ASCII))
    text = ",".join(parts)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return text


def give_name(config: DictConfig, overrides: Sequence[str], keys: Collection[str]) -> None:
    """Let a job's name, and with it its run directory, be followed by its choices."""
    choices = label(overrides, keys)
    if choices:
        config.name = f"{config.name}/{choices}"
