"""What a sweep prints at its end."""

from collections.abc import Sequence
from pathlib import Path

from graysam.reporting.runs import MACRO, TRAINED, read_run
from graysam.reporting.tables import report


def sweep_summary(jobs: Sequence[tuple[str, int, str, str, str]]) -> str:
    """Return one line a run and the table over all of them.

    Args:
        jobs: name, seed, run directory, state and reason of each job; the state is empty for one that ended well or
            was not reached, the reason for one that did not fail.
    """
    runs = [read_run(Path(run_dir)) for _, _, run_dir, _, _ in jobs]
    rows = []
    for (name, seed, run_dir, state, reason), run in zip(jobs, runs, strict=True):
        score = run.scores.get(TRAINED, {}).get(MACRO)
        scores = "-" if score is None else f"{100 * score.dsc:.2f} / {100 * score.nsd:.2f}"
        state = state or (run.state if run.path.is_dir() else "not run")
        rows.append((name, f"seed {seed}", state, scores, f"{run_dir}{f': {reason}' if reason else ''}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join([*(f"{text:<{w}}" for text, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    begun = [run for run in runs if run.path.is_dir()]
    table = ["", report(begun).markdown] if begun else [""]
    return "\n".join(["", f"{len(jobs)} runs, macro DSC / NSD (%)", *lines, *table])
