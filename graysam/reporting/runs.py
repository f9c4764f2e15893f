"""Read run directories: what each run is, how far it came, and what it scored."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from graysam.metrics.aggregation import MACRO
from graysam.reporting import schemas
from graysam.system.terminal import one_line

TRAINED, START, FILLED = TITLES = ("trained", "start", "fill the box")
CONFIG, SUMMARY, RUN = "config.json", "summary.json", "run.json"
EPOCH_MEANS = ["train/loss_epoch", "train/embedding_error_epoch"]  # columns of metrics.csv, written when an epoch ends
DSC = f"val/dsc_slice256/{MACRO}"
# Panel of the learning curves -> its columns of metrics.csv and their names in the legend.
CURVES: Mapping[str, Mapping[str, str]] = {
    "normalised embedding error": {"train/embedding_error_epoch": "training", "val/embedding_error": "validation"},
    "segmentation loss": {"train/loss_epoch": "training", "val/loss": "validation"},
    "DSC of the validation slices, macro, %": {DSC: "validation"},
}
CURVE_COLUMNS = [column for panel in CURVES.values() for column in panel]
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


@dataclass(frozen=True)
class Run:
    """Content of a run directory.

    Attributes:
        scores: TRAINED, START and FILLED -> scores of the validation slices at 256 px.
        objects: scores of the trained model by object; empty where an earlier version did not store them.
        methods: quantization method -> its result.
        epochs: number of finished epochs; steps: of the optimizer in them; None where no CSV logger recorded them.
        images_per_step: over all ranks; None where neither config.json nor run.json holds it.
        problem: "" for a finished run, else `damaged: ...` or `unfinished: ...` in one line.
    """

    path: Path
    name: str
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, schemas.Scores] = field(default_factory=dict)
    objects: schemas.Objects = field(default_factory=dict)
    methods: Mapping[str, schemas.MethodResult] = field(default_factory=dict)
    epochs: int | None = None
    steps: int | None = None
    images_per_step: int | None = None
    problem: str = ""

    @property
    def state(self) -> str:
        """Return `finished`, `unfinished` or `damaged`."""
        return self.problem.partition(":")[0] or "finished"

    @property
    def images(self) -> int | None:
        """Return the images seen in the finished epochs, with repetitions; the last batch counts as a whole one."""
        return None if self.steps is None or self.images_per_step is None else self.steps * self.images_per_step


def natural_key(text: str) -> list[Any]:
    """Return a key that sorts numbers within names by value: seed2 before seed10, 5e-05 before 0.0001."""
    return [float(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(text))]


def images_per_step(config: Mapping[str, Any], ranks: object = None) -> int | None:
    """Return the number of images in one step of the optimizer over all ranks, None where it is unknown.

    Args:
        config: of the run.
        ranks: of run.json; without it, the config's devices must be a number, not `auto` or -1.
    """
    try:
        trainer, batch = config["trainer"], int(config["data"]["batch_size"])
        counts: list[Any] = [ranks] if ranks is not None else [trainer["devices"], trainer["num_nodes"]]
        counts += [batch, trainer["accumulate_grad_batches"]]
    except (KeyError, TypeError, ValueError):
        return None
    return math.prod(counts) if all(isinstance(count, int) and count > 0 for count in counts) else None


def read_run(path: Path) -> Run:
    """Read a run directory; missing or damaged content becomes the run's `problem`, never an exception."""
    run: dict[str, Any] = {"name": path.name}
    try:
        config = schemas.read_json_object(path / CONFIG)
        with schemas.parsing(CONFIG):
            run = {"name": str(config["name"]), "seed": int(config["seed"]), "config": config}
            max_epochs = config.get("trainer", {}).get("max_epochs")
        summary, started = (
            schemas.read_json_object(path / name) if (path / name).is_file() else {} for name in (SUMMARY, RUN)
        )
        run["images_per_step"] = images_per_step(config, started.get("ranks"))
        with schemas.parsing(SUMMARY):
            scores = {title: schemas.parse_scores(summary[title]) for title in TITLES if title in summary}
            objects = schemas.parse_objects(summary.get("objects", []))
        for name in (schemas.EARLIER_QUANTIZATION, schemas.QUANTIZATION):
            if (path / name).is_file():
                with schemas.parsing(name):
                    report = schemas.QuantizationReport.from_json(schemas.read_json_object(path / name))
                run["methods"] = report.methods
    except (OSError, ValueError) as error:
        return Run(path, **run, problem=f"damaged: {one_line(error)}")
    try:
        history = read_history(path)
        ended = history.dropna(subset=EPOCH_MEANS, how="all")[["epoch", "step"]].max().fillna(-1).astype(int) + 1
        epochs, steps = (None, None) if history.empty else (int(ended["epoch"]), int(ended["step"]))
    except ValueError:  # e.g. cut short by a full disk; the scores do not come from it
        epochs, steps = None, None
    problem = ""
    if TRAINED not in scores:
        problem = f"unfinished: {'none' if epochs is None else epochs} of {max_epochs} epochs recorded"
    return Run(path, **run, scores=scores, objects=objects, epochs=epochs, steps=steps, problem=problem)


def read_history(path: Path) -> pd.DataFrame:
    """Read what a run's CSV logger wrote over all starts of the run.

    Returns:
        Columns `epoch`, `step`, EPOCH_MEANS and CURVE_COLUMNS, NaN where nothing was written; empty without files.

    Raises:
        ValueError: a file that no CSV logger wrote.
    """
    columns = list(dict.fromkeys(["epoch", "step", *EPOCH_MEANS, *CURVE_COLUMNS]))
    tables = []
    for file in sorted((path / "metrics").glob("version_*/metrics.csv"), key=lambda f: natural_key(f.parent.name)):
        with schemas.parsing(f"{file} cannot be read as a CSV logger's"):
            table = pd.read_csv(file, low_memory=False).reindex(columns=columns).apply(pd.to_numeric)
            tables.append(table.astype({"step": int}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def read_curves(run: Run) -> pd.DataFrame:
    """Read a run's learning curves; of a step that was repeated, the last value counts.

    Returns:
        One column for each of CURVE_COLUMNS with a value, indexed by the images seen; empty without values.

    Raises:
        ValueError: a damaged file, or an unknown number of images per step.
    """
    history = read_history(run.path)
    curves = history.groupby("step")[CURVE_COLUMNS].last().dropna(how="all").dropna(how="all", axis=1)
    if curves.empty:
        return curves
    if run.images_per_step is None:
        raise ValueError("neither config.json nor run.json says how many images a step sees")
    return curves.set_axis((curves.index + 1) * run.images_per_step)


def by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs by name in natural order, each group by seed and path."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: (natural_key(r.name), r.seed, str(r.path))):
        groups.setdefault(run.name, []).append(run)
    return groups


def usable(runs: Iterable[Run]) -> tuple[dict[str, list[Run]], list[str]]:
    """Choose the runs that tables are made of: finished ones, and of a name and seed the first by path.

    Returns:
        The chosen runs by variant, and a line for each other run with the reason.
    """
    chosen: dict[tuple[str, int], Run] = {}
    excluded = []
    for run in (run for group in by_variant(runs).values() for run in group):
        problem = run.problem
        if not problem and chosen.setdefault((run.name, run.seed), run) is not run:
            problem = f"the same name and seed as {chosen[run.name, run.seed].path}"
        excluded += [f"{run.path}: {problem}"] if problem else []
    return by_variant(chosen.values()), excluded
