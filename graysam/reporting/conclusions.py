"""What comparisons in pairs say, in plain sentences that are computed from them."""

from collections.abc import Sequence

from graysam.reporting.accuracy import Estimate
from graysam.reporting.paired_runs import Pair, unquantized
from graysam.reporting.runs import MACRO

METRICS = ("dsc", "nsd")
FEWEST = 5  # subjects; the interval of fewer holds the truth far less often than it says


def _verdict(found: Estimate) -> str:
    """Say what an interval shows; one that holds 0, or none at all, shows no difference."""
    if found.n == 0:
        return "not compared"
    if found.n < FEWEST:
        return "too few subjects to tell"
    return "better" if found.low > 0 else "worse" if found.high < 0 else "no difference shown"


def variant_conclusions(pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence for each reference and metric: which variants are better, worse, or not told apart from it.

    And one on what the intervals do not hold. pairs: of `paired_runs.variant_pairs`; macro averages of those that are
    not quantized. Empty where there are none.
    """
    plain = unquantized(pairs)
    lines = []
    for reference in dict.fromkeys(pair.reference for pair in plain):
        here = [pair for pair in plain if pair.reference == reference]
        for metric in METRICS:
            groups: dict[str, list[str]] = {name: [] for name in ("better", "worse", "no difference shown")}
            for pair in here:
                found: Estimate = getattr(pair, metric)[MACRO]
                name = pair.variant.removeprefix(f"{reference.rpartition('/')[0]}/")
                groups.setdefault(_verdict(found), []).append(f"`{name}` {found.percent(sign=True)}")
            said = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in groups.items() if names)
            lines.append(f"Against `{reference}`, {metric.upper()} in points: {said}.")
    return [*lines, _limits(plain)] if lines else []


def _limits(pairs: Sequence[Pair]) -> str:
    single = sorted({m for pair in pairs for m, one in pair.dsc.items() if m != MACRO and one.n == 1})
    return (
        "Intervals are over subjects, of these very trainings: how far another training would differ they do not hold "
        "(see the spread over seeds). Of few subjects they are too narrow: of three, an interval is their range. A "
        "patient's modalities are drawn apart."
        + (f" With one subject only, and so without a spread of its own: {', '.join(single)}." if single else "")
    )


def kind_conclusions(pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence for each sweep and kind: how much the kind changes its variants, and for how many it shows.

    pairs: of `paired_runs.kind_pairs`, macro averages. Empty where there are none.
    """
    lines = []
    for family, kind in dict.fromkeys((pair.family or pair.variant, pair.kind) for pair in pairs):
        here = [pair for pair in pairs if (pair.family or pair.variant, pair.kind) == (family, kind)]
        parts = []
        for metric in METRICS:
            found = [one for pair in here if (one := getattr(pair, metric)[MACRO]).n]
            clear = sum(_verdict(one) in ("better", "worse") for one in found)
            means = [100 * one.mean for one in found]
            if found:
                parts.append(
                    f"{metric.upper()} by {min(means):+.2f} to {max(means):+.2f} points, with an interval apart from 0 "
                    f"in {clear} of {len(found)} variants"
                )
        lost = len(here) - len([pair for pair in here if pair.dsc[MACRO].n])
        parts += [f"{lost} variants not compared, for no seed has both"] if lost else []
        lines.append(f"`{kind}` changes `{family}`: {'; '.join(parts)}.")
    return lines
