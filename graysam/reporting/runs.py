"""Run directories: what each run is, how far it came and what it scored, and tables over runs."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from graysam.metrics.aggregation import MACRO
from graysam.reporting import schemas
from graysam.reporting.tables import EMPTY, Table
from graysam.system.terminal import one_line

TITLES = ("trained", "start", "fill the box")  # keys of summary.json
TRAINED = TITLES[0]
PLAIN = "none"  # the quantization method that the others are compared with
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


def images_per_step(config: Mapping[str, Any], ranks: Any = None) -> int | None:
    """Return the number of images in one step over all ranks; None without `ranks` where the devices are no number."""
    try:
        trainer = config["trainer"]
        counts = [ranks] if ranks is not None else [trainer["devices"], trainer["num_nodes"]]
        counts += [config["data"]["batch_size"], trainer["accumulate_grad_batches"]]
    except (KeyError, TypeError):
        return None
    return math.prod(counts) if all(isinstance(count, int) and count > 0 for count in counts) else None


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


# ------------------------------------------------------------------ tables
def cell(values: Iterable[float], digits: int = 2) -> str:
    """Format `mean ± sample standard deviation`: the mean alone for one, `-` for none."""
    known = pd.Series(list(values), dtype=float)
    if known.empty:
        return EMPTY
    mean = f"{known.mean():.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {known.std():.{digits}f}"


def span(values: Iterable[int | None]) -> str:
    """Format whole numbers as one, or as `smallest-largest`; `-` for none. None is ignored."""
    known = sorted({value for value in values if value is not None})
    return "-".join(str(value) for value in dict.fromkeys((known[0], known[-1]))) if known else EMPTY


def _score_cells(scores: Sequence[schemas.Score]) -> list[str]:
    return [cell(100 * score.dsc for score in scores), cell(100 * score.nsd for score in scores)]


def scores_table(chosen: dict[str, list[Run]], all_runs: dict[str, list[Run]], modalities: bool = False) -> Table:
    """Return DSC and NSD of every variant, with `modalities` of every modality instead of the macro average."""
    stored = {title for runs in chosen.values() for run in runs for title in run.scores}
    titles = [title for title in TITLES if title == TRAINED or title in stored]
    rows = []
    for name, asked in all_runs.items():
        runs = chosen.get(name, [])
        names = sorted({m for run in runs for m in run.scores[TRAINED]} - {MACRO}) if modalities else [MACRO]
        for modality in names:
            scores = {t: [r.scores[t][modality] for r in runs if modality in r.scores.get(t, {})] for t in titles}
            finished = [f"{len(runs)}/{len(asked)}", span(r.epochs for r in runs), span(r.images for r in runs)]
            labels = [name, modality] if modalities else [name, *finished]
            cells = [text for title in titles for text in _score_cells(scores[title])]
            rows.append([*labels, span(score.n for score in scores[TRAINED]), *cells])
    labels = ["variant", "modality"] if modalities else ["variant", "finished", "epochs", "images"]
    metrics = [f"{title} {metric}".removeprefix(f"{TRAINED} ") for title in titles for metric in ("DSC", "NSD")]
    over = " per modality" if modalities else ", macro average over modalities"
    title = f"DSC and NSD (%){over}, slices at 256 px; mean ± standard deviation over seeds"
    return Table(title, [*labels, "objects", *metrics], rows, labels=2 if modalities else 1)


def methods_table(chosen: dict[str, list[Run]]) -> Table:
    """Return accuracy, times and size of every variant's weights under each quantization method."""
    rows = []
    for name, runs in chosen.items():
        for method in sorted({method for run in runs for method in run.methods}, key=lambda m: (m != PLAIN, m)):
            found = [run.methods[method] for run in runs if method in run.methods and not run.methods[method].reason]
            scores = [one.scores[MACRO] for one in found]
            cells = [cell((one.times_ms[key]["median"] for one in found), 1) for key in schemas.TIMES]
            cells += [cell((one.size_mb for one in found), 1)]
            labels = [name, method, str(len(found)), span(score.n for score in scores)]
            rows.append([*labels, *_score_cells(scores), *cells])
    columns = ["variant", "method", "runs", "objects", "DSC", "NSD", "encoder ms", "decoder ms", "image ms", "size MB"]
    return Table("Quantization of the same weights; times are medians, ± over seeds", columns, rows, labels=2)


def run_tables(runs: Sequence[Run], *, modalities: bool = False, methods: bool = False) -> str:
    """Return the tables over runs as Markdown, with notes on what they lack; the same runs give the same text."""
    finished, excluded = usable(runs)
    chosen, all_runs = by_variant(finished), by_variant(runs)
    tables = [scores_table(chosen, all_runs)]
    notes = [f"- not in the means: {line}" for line in excluded]
    if modalities:
        tables.append(scores_table(chosen, all_runs, modalities=True))
    if methods:
        tables.append(methods_table(chosen))
        if without := [str(run.path) for run in finished if not run.methods]:
            notes.append(f"- no quantization results of {', '.join(without)}")
        notes += [
            f"- {run.path}: {name} did not run: {method.reason}"
            for run in finished
            for name, method in run.methods.items()
            if method.reason
        ]
    return "\n\n".join([*map(str, tables), *(["\n".join(notes)] if notes else [])]) + "\n"


def sweep_summary(jobs: Iterable[tuple[str, int, str, str, str]]) -> str:
    """Return what a sweep prints at its end: one line a run, then the table over all of them.

    Args:
        jobs: name, seed, run directory, state and reason of each job; the state is empty for one that ended well or
            was not reached, the reason for one that did not fail.
    """
    rows, begun = [], []
    for name, seed, run_dir, state, reason in jobs:
        scores, found = EMPTY, "not run"
        if Path(run_dir).is_dir():
            run = read_run(Path(run_dir))
            begun.append(run)
            found = run.problem.partition(":")[0] or "finished"
            if TRAINED in run.scores:
                macro = run.scores[TRAINED][MACRO]
                scores = f"{100 * macro.dsc:.2f} / {100 * macro.nsd:.2f}"
        rows.append([name, f"seed {seed}", state or found, scores, f"{run_dir}{f': {reason}' if reason else ''}"])
    lines = tabulate(rows, tablefmt="plain", disable_numparse=True)
    return f"\n{len(rows)} runs, macro DSC / NSD (%)\n{lines}\n\n{run_tables(begun) if begun else ''}"
