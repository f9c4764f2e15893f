"""Read run directories: what each run is, how far it came, and what it scored."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from graysam.metrics.aggregation import MACRO
from graysam.reporting import schemas
from graysam.system.terminal import one_line

TITLES = ("trained", "start", "fill the box")  # keys of summary.json
TRAINED = TITLES[0]
EPOCH_MEANS = ["train/loss_epoch", "train/embedding_error_epoch"]  # columns of metrics.csv, written when an epoch ends
DSC = f"val/dsc_slice256/{MACRO}"
# Panel of the learning curves -> its columns of metrics.csv and their names in the legend.
CURVES: Mapping[str, Mapping[str, str]] = {
    "normalised embedding error": {"train/embedding_error_epoch": "training", "val/embedding_error": "validation"},
    "segmentation loss": {"train/loss_epoch": "training", "val/loss": "validation"},
    "DSC of the validation slices, macro, %": {DSC: "validation"},
}
CURVE_COLUMNS = [column for panel in CURVES.values() for column in panel]  # EPOCH_MEANS are among them


@dataclass(frozen=True)
class Run:
    """Content of a run directory.

    Attributes:
        scores: of TITLES -> scores of the validation slices at 256 px.
        objects: scores of the trained model by object; empty where an earlier version did not store them.
        methods: quantization method -> its result.
        epochs: number of finished epochs; None where no CSV logger recorded them.
        images: seen in them, with repetitions; the last batch counts as a whole one.
        images_per_step: over all ranks; None where neither config.json nor run.json holds it.
        problem: "" for a finished run, else `damaged: ...` or `unfinished: ...` in one line.
    """

    path: Path
    name: str
    seed: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, schemas.Scores] = field(default_factory=dict)
    objects: Sequence[schemas.ObjectScore] = ()
    methods: Mapping[str, schemas.MethodResult] = field(default_factory=dict)
    epochs: int | None = None
    images: int | None = None
    images_per_step: int | None = None
    problem: str = ""


def natural_key(text: str) -> list[Any]:
    """Return a key that sorts numbers within names by value: seed2 before seed10, 5e-05 before 0.0001."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def images_per_step(config: Mapping[str, Any], ranks: object = None) -> int | None:
    """Return the number of images in one step over all ranks; None without `ranks` where the devices are no number."""
    try:
        trainer = config["trainer"]
        counts = [ranks] if ranks is not None else [trainer["devices"], trainer["num_nodes"]]
        counts += [config["data"]["batch_size"], trainer["accumulate_grad_batches"]]
    except (KeyError, TypeError):
        return None
    known = [count for count in counts if isinstance(count, int) and count > 0]
    return math.prod(known) if len(known) == len(counts) else None


def read_run(path: Path) -> Run:
    """Read a run directory; missing or damaged content becomes the run's `problem`, never an exception."""
    run: dict[str, Any] = {"name": path.name}
    try:
        config = schemas.read_json_object(path / schemas.CONFIG)
        with schemas.parsing(schemas.CONFIG):
            run = {"name": str(config["name"]), "seed": int(config["seed"]), "config": config}
            max_epochs = config.get("trainer", {}).get("max_epochs")
        summary, started = (
            schemas.read_json_object(path / name) if (path / name).is_file() else {}
            for name in (schemas.SUMMARY, schemas.RUN)
        )
        run["images_per_step"] = images_per_step(config, started.get("ranks"))
        with schemas.parsing(schemas.SUMMARY):
            scores = {title: schemas.parse_scores(summary[title]) for title in TITLES if title in summary}
            objects = [schemas.ObjectScore(*row) for row in summary.get("objects", [])]
            run |= {"scores": scores, "objects": objects}
        if (path / schemas.QUANTIZATION).is_file():
            content = schemas.read_json_object(path / schemas.QUANTIZATION)
            with schemas.parsing(schemas.QUANTIZATION):
                run["methods"] = schemas.QuantizationReport.from_json(content).methods
    except (OSError, ValueError) as error:
        return Run(path, **run, problem=f"damaged: {one_line(error)}")
    try:
        history = read_history(path)
    except ValueError:  # e.g. cut short by a full disk; the scores do not come from it
        history = pd.DataFrame()
    if not history.empty:
        ended = history.dropna(subset=EPOCH_MEANS, how="all")[["epoch", "step"]].max().fillna(-1).astype(int) + 1
        images = None if run["images_per_step"] is None else int(ended["step"]) * run["images_per_step"]
        run |= {"epochs": int(ended["epoch"]), "images": images}
    if TRAINED not in scores:
        run["problem"] = f"unfinished: {run.get('epochs', 'none')} of {max_epochs} epochs recorded"
    return Run(path, **run)


def read_history(path: Path) -> pd.DataFrame:
    """Read `epoch`, `step` and CURVE_COLUMNS, NaN for none, of all starts of a run; raise ValueError for damage."""
    columns = ["epoch", "step", *CURVE_COLUMNS]
    tables = []
    for file in sorted((path / "metrics").glob("version_*/metrics.csv"), key=lambda f: natural_key(f.parent.name)):
        with schemas.parsing(f"{file} cannot be read as a CSV logger's"):
            table = pd.read_csv(file, low_memory=False).reindex(columns=columns).apply(pd.to_numeric)
            tables.append(table.astype({"step": int}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def read_curves(run: Run) -> pd.DataFrame:
    """Read those of CURVE_COLUMNS that have values, by the images seen; of a repeated step the last value counts.

    Raises:
        ValueError: a damaged file, or an unknown number of images per step.
    """
    history = read_history(run.path)
    curves = history.groupby("step")[CURVE_COLUMNS].last().dropna(how="all").dropna(how="all", axis=1)
    if not curves.empty and run.images_per_step is None:
        raise ValueError("neither config.json nor run.json says how many images a step sees")
    return curves.set_axis((curves.index + 1) * (run.images_per_step or 1))


def by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Group runs by name in natural order, each group by seed and path."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: (natural_key(r.name), r.seed, str(r.path))):
        groups.setdefault(run.name, []).append(run)
    return groups


def usable(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """Return the finished runs, of a name and seed the first by path, and a line for each other run."""
    chosen: dict[tuple[str, int], Run] = {}
    excluded = []
    for run in (run for group in by_variant(runs).values() for run in group):
        problem = run.problem
        if not problem and chosen.setdefault((run.name, run.seed), run) is not run:
            problem = f"the same name and seed as {chosen[run.name, run.seed].path}"
        excluded += [f"{run.path}: {problem}"] if problem else []
    return list(chosen.values()), excluded
