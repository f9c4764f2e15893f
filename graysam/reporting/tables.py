"""Tables over runs: a row a variant, mean and spread over its seeds."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graysam.reporting.runs import FILLED, MACRO, START, TIMES, TRAINED, Run, Score, natural_key

EMPTY = "-"
PLAIN = "none"  # the kind that the others are compared with
Getter = Callable[[Run], float | None]  # a run's value of one column; None where it has none


@dataclass(frozen=True)
class Table:
    """A title ("" for none), the names of the columns, and rows of text; the first `labels` columns name the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    def markdown(self) -> str:
        """Return it as Markdown, padded so that it reads well as plain text, too; numbers stand to the right."""
        cells = [[text.replace("|", r"\|") for text in row] for row in (self.columns, *self.rows)]
        widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(self.columns))]
        sides = ["<" if i < self.labels else ">" for i in range(len(widths))]
        lines = [
            "| " + " | ".join(f"{text:{side}{w}}" for text, side, w in zip(row, sides, widths, strict=True)) + " |"
            for row in cells
        ]
        rule = "|".join("-" * (w + 1) + ("-" if side == "<" else ":") for side, w in zip(sides, widths, strict=True))
        title = [f"**{self.title}**", ""] if self.title else []
        return "\n".join([*title, lines[0], f"|{rule}|", *lines[1:]])


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation (n - 1), which is NaN for one value; at least one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


def cell(values: Iterable[float | None], digits: int = 2) -> str:
    """Return `mean ± spread` of the values that there are, the mean alone for one, `-` for none."""
    known = [value for value in values if value is not None]
    if not known:
        return EMPTY
    mean, spread = mean_and_spread(known)
    return f"{mean:.{digits}f}" if math.isnan(spread) else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def variants(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs by name in natural order, each name's by seed."""
    found: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: (natural_key(r.name), -1 if r.seed is None else r.seed, str(r.path))):
        found.setdefault(run.name, []).append(run)
    return found


# ------------------------------------------------------------------------------------------------------ tables


def _percent(title: str, modality: str, metric: str) -> Getter:
    def get(run: Run) -> float | None:
        score: Score | None = run.scores.get(title, {}).get(modality)
        return None if score is None else 100 * float(getattr(score, metric))

    return get


def _score_columns(runs: Sequence[Run], modality: str) -> dict[str, Getter]:
    """Return the columns of DSC and NSD: of the trained model, and of what it is compared with where that is there."""
    columns: dict[str, Getter] = {}
    for title in (TRAINED, START, FILLED):
        if title == TRAINED or any(title in run.scores for run in runs):
            prefix = "" if title == TRAINED else f"{title} "
            columns |= {f"{prefix}{metric.upper()}": _percent(title, modality, metric) for metric in ("dsc", "nsd")}
    return columns


def _span(values: Iterable[int | None]) -> str:
    """Return whole numbers as one, or as `smallest-largest`."""
    known = sorted(value for value in values if value is not None)
    return EMPTY if not known else str(known[0]) if known[0] == known[-1] else f"{known[0]}-{known[-1]}"


def _objects_scored(runs: Sequence[Run]) -> str:
    return _span(run.scores[TRAINED][MACRO].n for run in runs)


def scores_table(finished: Mapping[str, Sequence[Run]], asked: Mapping[str, Sequence[Run]]) -> Table:
    """Return macro DSC and NSD of every variant; `asked` holds the runs that did not finish, too."""
    columns = _score_columns([run for runs in finished.values() for run in runs], MACRO)
    rows = []
    for name in asked:
        runs = finished.get(name, [])
        values = (cell(get(run) for run in runs) for get in columns.values())
        seen = (_span(run.epochs for run in runs), _span(run.images for run in runs), _objects_scored(runs))
        rows.append([name, f"{len(runs)}/{len(asked[name])}", *seen, *values])
    title = "DSC and NSD (%), macro average over modalities, slices at 256 px; mean ± standard deviation over seeds"
    return Table(title, ["variant", "finished", "epochs", "images", "objects", *columns], rows)


def modalities_table(finished: Mapping[str, Sequence[Run]]) -> Table:
    """Return DSC and NSD of every variant and modality."""
    everything = [run for runs in finished.values() for run in runs]
    rows = []
    for name, runs in finished.items():
        for modality in sorted({m for run in runs for m in run.scores[TRAINED]} - {MACRO}):
            columns = _score_columns(everything, modality)
            objects = _span(run.scores[TRAINED][modality].n for run in runs if modality in run.scores[TRAINED])
            rows.append([name, modality, objects, *(cell(get(run) for run in runs) for get in columns.values())])
    title = "DSC and NSD (%) per modality, slices at 256 px; mean ± standard deviation over seeds"
    return Table(title, ["variant", "modality", "objects", *_score_columns(everything, MACRO)], rows, labels=2)


def kinds_table(finished: Mapping[str, Sequence[Run]]) -> Table:
    """Return accuracy, times and size of every variant's weights in every kind that was benchmarked."""
    rows = []
    for name, runs in finished.items():
        for kind in sorted({kind for run in runs for kind in run.kinds}, key=lambda k: (k != PLAIN, k)):
            found = [run.kinds[kind] for run in runs if kind in run.kinds and not run.kinds[kind].reason]
            scores = [cell(100 * getattr(k.scores[MACRO], metric) for k in found) for metric in ("dsc", "nsd")]
            times = [cell((k.times_ms[key] for k in found), digits=1) for key in TIMES]
            size = cell((k.size_mb for k in found), digits=1)
            rows.append([name, kind, str(len(found)), _span(k.scores[MACRO].n for k in found), *scores, *times, size])
    columns = ["variant", "kind", "runs", "objects", "DSC", "NSD", "encoder ms", "decoder ms", "image ms", "size MB"]
    return Table("Post-hoc kinds of the same weights; times are medians, ± over seeds", columns, rows, labels=2)


# ------------------------------------------------------------------------------------------------------ report


@dataclass(frozen=True)
class Report:
    """Tables as Markdown, and a line for every run that is not in them."""

    markdown: str
    left_out: Sequence[str]


def report(runs: Iterable[Run], *, modalities: bool = False, kinds: bool = False) -> Report:
    """Return the tables over runs, with notes on what is not in them and what should not be averaged.

    The same runs give the same text. Several finished runs of one name and seed count once, the first by path.
    """
    asked = variants(runs)
    finished: dict[str, list[Run]] = {}
    missing: list[str] = []
    for name, group in asked.items():
        seeds: dict[int | None, Run] = {}
        for run in group:
            problem = run.problem
            if not problem and seeds.setdefault(run.seed, run) is not run:
                problem = f"the same name and seed as {seeds[run.seed].path}"
            if problem:
                missing.append(f"{run.path}: {problem}")
        if seeds:
            finished[name] = list(seeds.values())
    tables = [scores_table(finished, asked)]
    tables += [modalities_table(finished)] if modalities else []
    tables += [kinds_table(finished)] if kinds else []
    notes = [f"not in the means: {line}" for line in missing]
    notes += [f"seeds of {name} differ in more than the seed: {keys}" for name, keys in _differing(finished)]
    if kinds:
        notes += _unavailable(finished)
    parts = [table.markdown() for table in tables] + (["\n".join(f"- {note}" for note in notes)] if notes else [])
    return Report("\n\n".join(parts) + "\n", missing)


def _unavailable(finished: Mapping[str, Sequence[Run]]) -> list[str]:
    runs = [run for several in finished.values() for run in several]
    without = [str(run.path) for run in runs if not run.kinds]
    notes = [f"no benchmark of {', '.join(without)}"] if without else []
    return notes + [
        f"{run.path}: {name} did not run: {kind.reason}"
        for run in runs
        for name, kind in run.kinds.items()
        if kind.reason
    ]


def _differing(finished: Mapping[str, Sequence[Run]]) -> Iterator[tuple[str, str]]:
    """Yield the variants whose runs have different configs, seeds and places aside, with the keys that differ."""
    for name, runs in finished.items():
        settings = [dict(_settings(run.config, run)) for run in runs]
        keys = {key for other in settings[1:] for key in other.keys() | settings[0].keys()
                if other.get(key) != settings[0].get(key)}  # fmt: skip
        if keys:
            yield name, ", ".join(sorted(keys))


def _settings(content: Any, run: Run, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _settings(value, run, f"{prefix}.{key}" if prefix else str(key))
    elif prefix.rpartition(".")[2] != "seed":
        run_dir = str(run.config.get("run_dir"))
        yield prefix, content.replace(run_dir, "<run_dir>") if isinstance(content, str) else content
