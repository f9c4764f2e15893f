"""What comparisons in pairs say, in plain sentences that are computed from them."""

from collections.abc import Sequence

from graysam.reporting.accuracy import Estimate
from graysam.reporting.paired_runs import Pair, unquantized
from graysam.reporting.runs import MACRO


def _sorted_out(named: Sequence[tuple[str, Estimate]]) -> str:
    """Return names and differences by what their intervals show; an interval that holds 0 shows no difference."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
    for name, found in named:
        verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "no difference shown"
        groups[verdict].append(f"{name} {found.percent(sign=True)}")
    return "; ".join(f"{verdict}: {', '.join(names) if names else 'none'}" for verdict, names in groups.items())


def variant_conclusions(pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence for each reference and metric: which variants are better, worse, or not told apart from it.

    pairs: of `paired_runs.variant_pairs`; macro averages of those that are not quantized. Empty where there are none.
    """
    lines = []
    plain = unquantized(pairs)
    for reference in dict.fromkeys(pair.reference for pair in plain):
        here = [pair for pair in plain if pair.reference == reference]
        for metric, found in (("DSC", [p.dsc[MACRO] for p in here]), ("NSD", [p.nsd[MACRO] for p in here])):
            named = [(f"`{_last(pair.variant)}`", one) for pair, one in zip(here, found, strict=True)]
            lines.append(f"Against `{reference}`, {metric} in points: {_sorted_out(named)}.")
    return lines


def kind_conclusions(pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence for each sweep and kind: how much the kind changes its variants, and for how many it shows.

    pairs: of `paired_runs.kind_pairs`, macro averages. Empty where there are none.
    """
    lines = []
    for family, kind in dict.fromkeys((pair.family, pair.kind) for pair in pairs):
        here = [pair for pair in pairs if (pair.family, pair.kind) == (family, kind)]
        parts = []
        for metric, found in (("DSC", [p.dsc[MACRO] for p in here]), ("NSD", [p.nsd[MACRO] for p in here])):
            means = [100 * one.mean for one in found]
            clear = sum(one.low > 0 or one.high < 0 for one in found)
            parts.append(
                f"{metric} by {min(means):+.2f} to {max(means):+.2f} points, with an interval apart from 0 in {clear} "
                f"of {len(found)} variants"
            )
        lines.append(f"`{kind}` changes `{family or here[0].variant}`: {'; '.join(parts)}.")
    return lines


def _last(variant: str) -> str:
    return variant.rpartition("/")[2]
