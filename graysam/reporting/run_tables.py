"""Tables over runs: one row a variant, mean and spread over its seeds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from graysam.metrics.aggregation import MACRO
from graysam.reporting.runs import TITLES, TRAINED, Run, by_variant, read_run, usable
from graysam.reporting.schemas import TIMES
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


def _score_cells(runs: Sequence[Run], modality: str, titles: Sequence[str]) -> list[str]:
    """Return mean and spread of DSC and NSD in per cent, for each title."""
    cells = []
    for title in titles:
        scores = [run.scores[title][modality] for run in runs if modality in run.scores.get(title, {})]
        cells += [cell(100 * score.dsc for score in scores), cell(100 * score.nsd for score in scores)]
    return cells


def scores_table(chosen: Variants, all_runs: Variants, modalities: bool = False) -> Table:
    """Return DSC and NSD of every variant.

    Args:
        chosen: finished runs.
        all_runs: also those that did not finish.
        modalities: whether to return one row for each variant and modality, instead of the macro average.
    """
    stored = {title for runs in chosen.values() for run in runs for title in run.scores}
    titles = [title for title in TITLES if title == TRAINED or title in stored]
    rows = []
    for name, asked in all_runs.items():
        runs = chosen.get(name, [])
        names = sorted({m for run in runs for m in run.scores[TRAINED]} - {MACRO}) if modalities else [MACRO]
        for modality in names:
            objects = span(run.scores[TRAINED][modality].n for run in runs if modality in run.scores[TRAINED])
            finished = [f"{len(runs)}/{len(asked)}", span(r.epochs for r in runs), span(r.images for r in runs)]
            labels = [name, modality] if modalities else [name, *finished]
            rows.append([*labels, objects, *_score_cells(runs, modality, titles)])
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
            cells = [cell(100 * score.dsc for score in scores), cell(100 * score.nsd for score in scores)]
            cells += [cell((one.times_ms[key]["median"] for one in found), 1) for key in TIMES]
            cells += [cell((one.size_mb for one in found), 1)]
            rows.append([name, method, str(len(found)), span(score.n for score in scores), *cells])
    columns = ["variant", "method", "runs", "objects", "DSC", "NSD", "encoder ms", "decoder ms", "image ms", "size MB"]
    return Table("Quantization of the same weights; times are medians, ± over seeds", columns, rows, labels=2)


def run_tables(runs: Iterable[Run], *, modalities: bool = False, methods: bool = False) -> tuple[str, list[str]]:
    """Return the tables over runs, with notes on what they lack; the same runs give the same text.

    Args:
        runs: in any order and state.
        modalities: whether to add scores per modality.
        methods: whether to add the quantization methods.

    Returns:
        Markdown, and a line for every run that is not in the tables.
    """
    all_runs = by_variant(runs)
    chosen, excluded = usable(run for group in all_runs.values() for run in group)
    tables = [scores_table(chosen, all_runs)]
    tables += [scores_table(chosen, all_runs, modalities=True)] if modalities else []
    tables += [methods_table(chosen)] if methods else []
    notes = [f"not in the means: {line}" for line in excluded]
    for name, group in chosen.items():
        if keys := _differing_keys(group):
            notes.append(f"seeds of {name} differ in more than the seed: {', '.join(keys)}")
    finished = [run for group in chosen.values() for run in group] if methods else []
    if without := [str(run.path) for run in finished if not run.methods]:
        notes.append(f"no quantization results of {', '.join(without)}")
    notes += [
        f"{run.path}: {name} did not run: {method.reason}"
        for run in finished
        for name, method in run.methods.items()
        if method.reason
    ]
    lines = ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join([*map(str, tables), *lines]) + "\n", excluded


def _differing_keys(runs: Sequence[Run]) -> list[str]:
    """Return the config keys that differ between runs, seeds and the run directory aside."""
    texts = [json.dumps(run.config).replace(str(run.config.get("run_dir")), "<run_dir>") for run in runs]
    table = pd.json_normalize([json.loads(text) for text in texts]).astype(str)
    differ = [str(key) for key, count in table.nunique().items() if count > 1]
    return sorted(key for key in differ if key.rpartition(".")[2] != "seed")


def sweep_summary(jobs: Iterable[tuple[str, int, str, str, str]]) -> str:
    """Return what a sweep prints at its end: one line a run, then the table over all of them.

    Args:
        jobs: name, seed, run directory, state and reason of each job; the state is empty for one that ended well or
            was not reached, the reason for one that did not fail.
    """
    rows, begun = [], []
    for name, seed, run_dir, state, reason in jobs:
        run = read_run(Path(run_dir))
        begun += [run] if run.path.is_dir() else []
        score = run.scores.get(TRAINED, {}).get(MACRO)
        scores = EMPTY if score is None else f"{100 * score.dsc:.2f} / {100 * score.nsd:.2f}"
        state = state or (run.state if run.path.is_dir() else "not run")
        rows.append([name, f"seed {seed}", state, scores, f"{run_dir}{f': {reason}' if reason else ''}"])
    lines = tabulate(rows, tablefmt="plain", disable_numparse=True)
    return f"\n{len(rows)} runs, macro DSC / NSD (%)\n{lines}\n\n{run_tables(begun)[0] if begun else ''}"
