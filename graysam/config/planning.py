"""Plan what a command line runs: expand its grid, name each job after its choices, and check every config."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

# Hydra expands a grid with this function when it runs the jobs, so what is checked is what runs.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from graysam.config.composing import COMPOSE_ERRORS, compose_config, explain, open_configs, to_plain
from graysam.config.schema import SCHEMAS, SUPPLIED
from graysam.config.targets import check_call, check_targets
from graysam.system.folders import conf_dir

UNLABELLED = {"seed", "name", "experiment", "run_dir"}  # these choose a run directory without a label
MAX_LABEL_LENGTH = 120  # file systems allow 255 bytes, dashboards fewer


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
        overrides: as on the command line, without options.
        conf: folder of configs; None for the project's own.

    Returns:
        The runs in order, and the keys that have several values.

    Raises:
        ValueError: errors of the configs, one line each, with the override or file at fault, the key path, what was
            given, what is required and the nearest valid name; two runs in one directory.
    """
    conf = conf or conf_dir()
    try:
        with open_configs(conf):
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            given = parser.parse_overrides(list(overrides))
        base = compose_config(config_name, [str(o.input_line) for o in given if not o.is_sweep_override()], conf)
        grid = dict(base.hydra.sweeper.get("params") or {})
        hydra, task = ([str(o.input_line) for o in given if o.is_hydra_override() is own] for own in (True, False))
        # The experiment's own grid goes first, so that the command line replaces parts of it.
        parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in grid.items()), *task])
        points: list[list[str]] = BasicSweeper.split_arguments(parsed, None)[0]
    except COMPOSE_ERRORS as error:
        raise ValueError(explain(error, overrides, conf)) from error
    swept = list(dict.fromkeys([*grid, *(o.key_or_group for o in parsed if o.is_sweep_override())]))
    named = any(o.key_or_group == "name" for o in parsed)  # then the experiments' own names do not count
    label_keys = set(swept) - (UNLABELLED - {"experiment"} if named else UNLABELLED)
    runs: list[Run] = []
    errors: list[str] = []
    for point in points if swept else [task]:
        try:
            config = compose_config(config_name, [*hydra, *point], conf) if swept else base
            if choices := label(point, label_keys):
                config.name = f"{config.name}/{choices}"
            if found := list(check_config(config, config_name, [*hydra, *point], conf)):
                errors += found
                continue
            run = Run(*(config.get(key) for key in ("name", "seed", "run_dir")))
        except COMPOSE_ERRORS as error:
            errors.append(explain(error, point, conf))
            continue
        if dict(config.hydra.sweeper.get("params") or {}) != grid:
            errors.append(f"{' '.join(point)}: this experiment is a grid of its own; sweep over it alone")
        elif run.run_dir in {other.run_dir for other in runs} - {None}:
            errors.append(
                f"{' '.join(point)}: another run of the sweep would lie in {run.run_dir} too; leave run_dir to the "
                "sweep, or let it hold ${name} and ${seed}"
            )
        runs.append(run)
    if errors:
        raise ValueError("\n".join(dict.fromkeys(errors)))
    return runs, swept


def check_config(config: DictConfig, config_name: str, overrides: Sequence[str], conf: Path) -> Iterator[str]:
    """Check a composed config: the keys at its top against the schema, and every `_target_` with its arguments."""
    try:
        plain = to_plain(config)
    except ValueError as error:
        path, _, text = str(error).partition(" ")
        errors = [(path, text)]
    else:
        top = f"{conf.name}/{config_name}.yaml"
        errors = list(check_call(SCHEMAS[config_name], top, plain, "")) if config_name in SCHEMAS else []
        errors = errors or list(check_targets(plain, "", SUPPLIED))
    first: dict[str, tuple[str, str]] = {}
    for path, text in sorted(errors, key=lambda error: error[0].count(".")):  # other keys may refer to the wrong value
        first.setdefault(text.partition(";")[0], (path, text))
    for path, text in first.values():
        if path == "experiment":
            text += "; is `# @package _global_` missing in its file?"
        yield f"{_source(path, config, config_name, overrides, conf)}: {path} {text}"


def _source(path: str, config: DictConfig, config_name: str, overrides: Sequence[str], conf: Path) -> str:
    """Return the override or the file that probably set a key: the experiment, the group's choice or the top."""
    for line in overrides:
        key = line.lstrip("+").partition("=")[0]
        if f"{path}.".startswith(f"{key}.") and not (conf / key).is_dir():
            return line
    key = re.escape(path.rpartition(".")[2])
    for group in ("experiment", path.partition(".")[0]):
        file = conf / group / f"{config.hydra.runtime.choices.get(group)}.yaml"
        if file.is_file() and (group != "experiment" or re.search(rf"^ *{key}:", file.read_text(), re.MULTILINE)):
            return f"{conf.name}/{group}/{file.name}"
    return f"{conf.name}/{config_name}.yaml"


def label(overrides: Sequence[str], keys: set[str]) -> str:
    """Return the values of some keys as the name of a folder, e.g. `augment=flips,channels=paper`; "" without keys.

    Keys are sorted; brackets and quotes are dropped, an empty list is `none`, other characters that paths and shells
    treat specially become `-`; a label that is too long ends in a hash.
    """
    parts = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group in keys:
            value = re.sub(r"[\[\]{}()'\"\s\\]", "", override.get_value_element_as_str()).replace(",", "+") or "none"
            parts.append(re.sub(r"[^\w.+=-]", "-", f"{override.key_or_group}={value}", flags=re.ASCII))
    text = ",".join(sorted(parts))
    if len(text) > MAX_LABEL_LENGTH:
        text = f"{text[: MAX_LABEL_LENGTH - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return text


def check_all(conf: Path | None = None) -> list[str]:
    """Return the errors of a folder of configs: every file at the top, every choice of every group, every experiment.

    The first choices of all groups are checked together, then the second ones and so on; an experiment with its grid.
    """
    conf = conf or conf_dir()
    errors: list[str] = []
    owned: set[str] = {"hydra"}
    for top in sorted(path.stem for path in conf.glob("*.yaml")):
        try:
            choices = compose_config(top, (), conf).hydra.runtime.choices
        except ValueError as error:
            errors.append(str(error))
            continue
        groups = [str(group) for group in choices if (conf / group).is_dir()]
        owned |= set(groups)
        lines = [[f"{group}={path.stem}" for path in sorted((conf / group).glob("*.yaml"))] for group in groups]
        alone = [line for group in lines for line in group if line.startswith("experiment=")]
        together = zip_longest(*(group for group in lines if group and group[0] not in alone))
        for given in [(), *together, *((line, "seed=0") for line in alone)]:
            try:
                plan_runs(top, [line for line in given if line is not None], conf)
            except ValueError as error:
                errors += str(error).splitlines()
    folders = {path.parent.relative_to(conf).as_posix() for path in conf.glob("*/**/*.yaml")}
    errors += [f"{conf.name}/{folder}: no config at the top has this group" for folder in sorted(folders - owned)]
    return list(dict.fromkeys(errors))
