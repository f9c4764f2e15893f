"""Plan what a command line runs: expand its grid, name each job after its choices, and check every config."""

import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

# Hydra expands a grid with this function when it runs the jobs, so what is checked is what runs.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from graysam.config.composing import compose_config, expand_home, open_configs, to_plain
from graysam.config.schema import SUPPLIED, TrainConfig
from graysam.config.targets import check_targets
from graysam.system.environment import conf_dir


class Run(NamedTuple):
    """One job of a sweep; `state` and `reason` (one line) are set after it failed."""

    name: str
    seed: int
    run_dir: str
    state: str = ""
    reason: str = ""


def plan_runs(config_name: str, overrides: Sequence[str] = (), conf: Path | None = None) -> tuple[list[Run], list[str]]:
    """Expand a command line's grid, and compose and check every config; nothing is built, run or written.

    Args:
        config_name: a file of the folder of configs, without suffix, e.g. `train`.
        overrides: of the command line, as `literal_overrides` returns them.
        conf: folder of configs; None for the project's own.

    Returns:
        The runs in order, and the keys that have several values.

    Raises:
        ValueError: errors of the configs, one line each; two runs in one directory.
    """
    conf = conf or conf_dir()
    base, given, _ = compose_base(config_name, overrides, conf)
    grid = dict(base.hydra.sweeper.get("params") or {})
    hydra, task = ([str(o.input_line) for o in given if o.is_hydra_override() is own] for own in (True, False))
    with open_configs(conf):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        # The experiment's own grid goes first, so that the command line replaces parts of it.
        parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in grid.items()), *task])
        points: list[list[str]] = BasicSweeper.split_arguments(parsed, None)[0]
    swept = list(dict.fromkeys([*grid, *(o.key_or_group for o in parsed if o.is_sweep_override())]))
    # These choose a run directory themselves; an experiment does so by its name, unless another is given.
    named = any(o.key_or_group == "name" for o in parsed)
    labelled = set(swept) - {"seed", "name", "run_dir", *(() if named else ("experiment",))}
    runs: list[Run] = []
    errors: list[str] = []
    for point in points if swept else [task]:
        try:
            config = compose_config(config_name, [*hydra, *point], conf) if swept else base
            if (choices := label(point, labelled)) and "name" in config:  # pack has none
                config.name = f"{config.name}/{choices}"
            check_config(config, config_name)
        except ValueError as error:
            errors += str(error).splitlines()
            continue
        run = Run(*(config.get(key) for key in ("name", "seed", "run_dir")))
        run = run._replace(run_dir=expand_home(run.run_dir))
        if dict(config.hydra.sweeper.get("params") or {}) != grid:
            errors.append(f"{' '.join(point)}: this experiment is a grid of its own; sweep over it alone")
        elif run.run_dir in {other.run_dir for other in runs} - {None}:
            errors.append(f"{' '.join(point)}: another run of the sweep would lie in {run.run_dir} too")
        runs.append(run)
    if errors:
        raise ValueError("\n".join(dict.fromkeys(errors)))
    return runs, swept


def compose_base(
    config_name: str, overrides: Sequence[str], conf: Path
) -> tuple[DictConfig, list[Override], list[str]]:
    """Compose a command line's config without the overrides that have several values; the arguments as in `plan_runs`.

    Returns:
        The config, all overrides as Hydra parses them, and the keys of those with several values.

    Raises:
        ValueError: it cannot be composed; in one line.
    """
    with open_configs(conf):
        given = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))
    base = compose_config(config_name, [str(o.input_line) for o in given if not o.is_sweep_override()], conf)
    return base, given, [o.key_or_group for o in given if o.is_sweep_override()]


def check_config(config: DictConfig, config_name: str) -> None:
    """Check a composed config: every `_target_` with its arguments, and the top of `train.yaml` against its schema.

    Raises:
        ValueError: errors, one line each.
    """
    top = {"_target_": f"{TrainConfig.__module__}.TrainConfig"} if config_name == "train" else {}
    errors = list(check_targets({**top, **to_plain(config)}, "", SUPPLIED))
    first: dict[str, str] = {}
    for error in sorted(errors, key=lambda error: error.partition(" ")[0].count(".")):
        reason = re.split(" is |: ", error.partition(";")[0], maxsplit=1)[1]
        first.setdefault(reason, error)  # a value that others refer to is reported once
    if first:
        raise ValueError("\n".join(first.values()))


def label(point: Sequence[str], keys: Collection[str]) -> str:
    """Return the values of some keys as the name of a folder, e.g. `augment=flips,channels=paper`; "" without keys.

    Keys are sorted; brackets and quotes are dropped, an empty list is `none`, other characters that paths and shells
    treat specially become `-`. More than 120 characters end in a hash.
    """
    parts = []
    for override in point:
        key, _, value = override.lstrip("+").partition("=")
        if key in keys:
            value = re.sub(r"[\[\]{}()'\"\s\\]", "", value).replace(",", "+") or "none"
            parts.append(re.sub(r"[^\w.+=-]", "-", f"{key}={value}", flags=re.ASCII))
    text = ",".join(sorted(parts))
    return text if len(text) <= 120 else f"{text[:111]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
