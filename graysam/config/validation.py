"""Checking configs without building or running anything: every mistake at once, each with the nearest valid name."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from graysam.config.faults import mended, parse
from graysam.config.origins import Origins
from graysam.config.resolving import Values
from graysam.config.settings import SUPPLIED
from graysam.config.signatures import check_tree
from graysam.config.sources import COMPOSE_ERRORS, loader_of, read_yaml
from graysam.config.top_level import check_top, groups_of
from graysam.system.folders import conf_dir


def check_config(config_name: str, overrides: Sequence[str] = (), conf: Path | None = None) -> list[str]:
    """Return all that is wrong with a composed config, one line each; an empty list when nothing is.

    A line names the override or the file at fault, the key path, what was given, what is required, and the nearest
    valid name. Nothing is built, run or written, and nothing is raised for a mistake. The subtree `hydra` is left to
    Hydra.

    Args:
        config_name: a file of the folder of configs, without suffix, e.g. `train`.
        overrides: as on the command line, without options.
        conf: folder of configs; None for the project's own.
    """
    conf = conf_dir() if conf is None else conf
    try:
        with loader_of(conf):
            config = compose(config_name, overrides=list(overrides))
    except COMPOSE_ERRORS as error:
        with mended(conf, config_name, overrides, error) as m:
            found = [] if m.config is None else _check_composed(m.conf, config_name, m.overrides, m.config, m.unknown)
            return m.problems + found
    return _check_composed(conf, config_name, overrides, config)


def check_sweep(config_name: str, overrides: Sequence[str] = (), conf: Path | None = None) -> list[str]:
    """Return all that is wrong with the jobs of a sweep, as `check_config` does for one job.

    The swept values come from the overrides, such as `seed=0,1`, and from `hydra.sweeper.params` of the config. Each
    value is checked in a job, but not each job: the first values of all keys together, the second ones, and so on.
    Without a sweep it is `check_config`.
    """
    conf = conf_dir() if conf is None else conf
    params, file = _sweeper_params(conf, config_name, overrides)
    problems: list[str] = []
    jobs: dict[str, list[str]] = {}  # by key, what a job may give for it
    with loader_of(conf) as loader:
        for line in [*params, *overrides]:
            try:
                override = parse(line, loader)
                key = override.get_key_element()
                swept = override.is_discrete_sweep()
                jobs[key] = [f"{key}={value}" for value in override.sweep_string_iterator()] if swept else [line]
                if not jobs[key]:
                    problems.append(f"{line}: matches nothing")
            except (ValueError, HydraException):
                jobs[line] = [line]  # told by check_config
    given = [lines for lines in jobs.values() if lines]
    for number in range(max(map(len, given), default=1)):
        problems += check_config(config_name, [lines[min(number, len(lines) - 1)] for lines in given], conf)
    from_file = tuple(f"{line.partition('=')[0]}=" for line in params)
    shown = [f"{file}: hydra.sweeper.params: {p}" if from_file and p.startswith(from_file) else p for p in problems]
    return list(dict.fromkeys(shown))


def _sweeper_params(conf: Path, config_name: str, overrides: Sequence[str]) -> tuple[list[str], str]:
    """Return what a config itself sweeps over, as overrides, and the file that says so; [] where it is not composed."""
    try:
        with loader_of(conf) as loader:
            alone = [line for line in overrides if not parse(line, loader).is_sweep_override()]
            config = compose(config_name, overrides=alone, return_hydra_config=True)
    except COMPOSE_ERRORS:
        return [], ""
    given = {line.partition("=")[0] for line in overrides}
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    lines = [f"{key}={value}" for key, value in params.items() if key not in given]
    return lines, Origins(conf, config_name, alone).of("hydra.sweeper.params") if lines else ""


@dataclass(frozen=True)
class Report:
    """What a check of a whole folder of configs found."""

    experiments: int
    files: int
    problems: list[str]


def check_all(conf: Path | None = None) -> Report:
    """Check every file of a folder of configs: those at the top, and each choice of each group in its default's place.

    An experiment is checked with all that it sweeps over. A file that no config at the top leads to is a problem.
    """
    conf = conf_dir() if conf is None else conf
    files = sorted(path.relative_to(conf) for path in conf.rglob("*.yaml"))
    tops = [file.stem for file in files if len(file.parts) == 1]
    problems = [problem for top in tops for problem in check_config(top, (), conf)]
    experiments = sum(file.parts[0] == "experiment" for file in files)
    try:
        groups = {top: groups_of(read_yaml(conf / f"{top}.yaml")) for top in tops}
    except ValueError:  # told above; what it leads to is not known
        return Report(experiments, len(files), problems)
    together: dict[tuple[str, str], list[str]] = {}  # objects know nothing of each other: one choice of each at a time
    for file in files:
        group = file.parent.as_posix()
        if group == "." or file.parts[0] == "hydra":
            continue
        owners = [top for top in tops if file.parts[0] in groups[top]]
        if not owners:
            problems.append(f"{conf.name}/{file}: no config at the top has the group {file.parts[0]!r}")
        for top in owners:
            if groups[top].get(group) is not None:
                together.setdefault((top, group), []).append(f"{group}={file.stem}")
            elif "sweeper" in (conf / file).read_text(errors="replace"):
                problems += check_sweep(top, [f"{group}={file.stem}"], conf)
            else:
                problems += check_config(top, [f"{group}={file.stem}"], conf)
    for top in tops:
        for choices in zip_longest(*(lines for (owner, _), lines in together.items() if owner == top)):
            problems += check_config(top, [line for line in choices if line is not None], conf)
    return Report(experiments, len(files), list(dict.fromkeys(problems)))


def _check_composed(
    conf: Path, config_name: str, overrides: Sequence[str], config: DictConfig, unknown: Sequence[str] = ()
) -> list[str]:
    """Check a config that can be composed, but for what stands below key paths that are unknown."""
    values = Values(config)
    plain = values.resolve(OmegaConf.to_container(config, resolve=False), "")
    problems = [*values.problems, *check_top(conf, config_name, plain), *check_tree(plain, "", SUPPLIED)]
    problems = [p for p in problems if not any(f"{p.path}.".startswith(f"{path}.") for path in unknown)]
    at_fault = {problem.path for problem in problems}
    problems = [problem for problem in problems if values.links.get(problem.path) not in at_fault]
    if not problems:
        return []
    origins = Origins(conf, config_name, overrides)
    return list(dict.fromkeys(f"{origins.of(path)}: {path} {text}" for path, text in problems))
