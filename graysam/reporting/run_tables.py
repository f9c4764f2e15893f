"""Tables over runs: one row a variant, mean and spread over its seeds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from graysam.metrics.aggregation import MACRO
from graysam.reporting.runs import TITLES, TRAINED, Run, by_variant, read_run, usable
from graysam.reporting.schemas import TIMES, Score
from graysam.reporting.tables import EMPTY, Table

PLAIN = "none"  # the quantization method that the others are compared with
Variants = Mapping[str, Sequence[Run]]


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


def _score_cells(scores: Sequence[Score]) -> list[str]:
    return [cell(100 * score.dsc for score in scores), cell(100 * score.nsd for score in scores)]


def scores_table(chosen: Variants, all_runs: Variants, modalities: bool = False) -> Table:
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


def methods_table(chosen: Variants) -> Table:
    """Return accuracy, times and size of every variant's weights under each quantization method."""
    rows = []
    for name, runs in chosen.items():
        for method in sorted({method for run in runs for method in run.methods}, key=lambda m: (m != PLAIN, m)):
            found = [run.methods[method] for run in runs if method in run.methods and not run.methods[method].reason]
            scores = [one.scores[MACRO] for one in found]
            cells = [cell((one.times_ms[key]["median"] for one in found), 1) for key in TIMES]
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
