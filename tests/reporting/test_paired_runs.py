"""Pairs of runs: by object, averaged over seeds, then over a subject's objects, then over modalities."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from graysam.reporting.paired_runs import (
    OWN,
    Pair,
    method_pairs,
    object_scores,
    pairs_by_modality_table,
    pairs_table,
    rank,
    unquantized,
    variant_pairs,
)
from graysam.reporting.runs import Run
from graysam.reporting.schemas import MethodResult, ObjectScore


def result(**dsc_by_key: float) -> MethodResult:
    """Make a result of objects `<modality>_<subject>_z<slice>`; NSD is half the DSC."""
    return MethodResult(
        objects=[ObjectScore(key, 0, key.partition("_")[0], dsc, dsc / 2) for key, dsc in dsc_by_key.items()]
    )


def run(name: str, seed: int = 0, **methods: MethodResult) -> Run:
    return Run(Path(name) / str(seed), name, seed, methods=methods)


def pairs_of(runs: Sequence[Run], reference: str, over: tuple[str, ...] = ()) -> list[Pair]:
    return variant_pairs(runs, object_scores(runs), reference, over)


def methods_of(runs: Sequence[Run]) -> list[Pair]:
    return method_pairs(object_scores(runs))


def compare(first: MethodResult, second: MethodResult, over: tuple[str, ...] = ()) -> Pair:
    """Compare two runs of these objects."""
    (pair,) = pairs_of([run("s/base", none=first), run("s/new", none=second)], "base", over)
    return pair


def means(pair: Pair, metric: str) -> dict[str, float]:
    differences = {**pair.by_modality(metric), "macro": pair.macro[metric]}
    return {name: pytest.approx(one.mean) for name, one in differences.items()}


def test_seeds_are_averaged_over_the_objects_that_all_of_them_scored() -> None:
    runs = [
        run("s/base", 0, none=result(CT_a_z1=0.5, CT_a_z2=0.25)),
        run("s/base", 1, none=result(CT_a_z1=0.75, US_b=1.0)),
        run("s/new", 0, none=result(CT_a_z1=0.75, CT_a_z2=0.25, US_b=0.5)),
        run("s/new", 1, none=result(CT_a_z1=1.0, CT_a_z2=0.25, US_b=0.5)),
    ]
    (pair,) = pairs_of(runs, "base")
    assert means(pair, "dsc") == {"CT": 0.25, "macro": 0.25} and pair.seeds == 2


def test_a_difference_by_hand() -> None:
    first = result(CT_a_z1=0.5, CT_a_z2=0.5, CT_b_z1=0.5, US_c=0.5, only=0.1)
    second = result(CT_a_z1=0.6, CT_a_z2=0.8, CT_b_z1=0.5, US_c=0.4)
    pair = compare(first, second)
    # CT: patients a (+0.2) and b (0) alike; US: one image, which cannot vary.
    assert means(pair, "dsc") == {"CT": 0.1, "US": -0.1, "macro": 0}
    assert means(pair, "nsd") == {"CT": 0.05, "US": -0.05, "macro": 0}
    macro = pair.macro["dsc"]
    assert (macro.n, macro.low, macro.high) == (3, pytest.approx(-0.05), pytest.approx(0.05))
    assert compare(result(CT_a=1), result(CT_b=1)).macro["dsc"].n == 0


def test_slices_of_a_patient_are_one_subject() -> None:
    keys = ["CT_STS020_z0007", "CT_STS020_z0123", "MR_MNI152_axial_0002", "MR_MNI152_sagittal_0100", "US_HC18_001"]
    pair = compare(result(**dict.fromkeys(keys, 0.5)), result(**dict.fromkeys(keys, 0.6)))
    assert {name: one.n for name, one in pair.by_modality("dsc").items()} == {"CT": 1, "MR": 1, "US": 1}


def test_macro_averages_can_be_over_some_modalities() -> None:
    first, second = result(CT_a=0.5, US_b=0.5, MR_c=0.5), result(CT_a=0.6, US_b=0.9, MR_c=0.8)
    assert compare(first, second, over=("CT", "MR")).macro["dsc"].mean == pytest.approx(0.2)


def test_runs_that_score_other_boxes_are_not_compared() -> None:
    """Object 1 of a slice is another label where more of its labels are scored."""
    runs = [
        replace(RUNS[0], config={"data": {"val_boxes_per_image": 4, "size": 256}}),
        replace(RUNS[2], config={"data": {"val_boxes_per_image": 8, "size": 256}}),
    ]
    assert pairs_of(runs, "channels=replicate") == []
    runs[1] = replace(runs[1], config=runs[0].config)
    assert len(pairs_of(runs, "channels=replicate")) == 2


RUNS = [
    run("s/channels=replicate", 0, none=result(CT_a=0.5), int8=result(CT_a=0.4)),
    run("s/channels=replicate", 1, none=result(CT_a=0.7), int8=result(CT_a=0.4)),
    run("s/channels=paper", 0, none=result(CT_a=0.6), int8=result(CT_a=0.4)),
    run("s/channels=paper", 1, none=result(CT_a=0.9), int8=result(CT_a=0.4)),
]


def test_variants_are_compared_with_one_of_them_and_methods_with_the_same_weights() -> None:
    pairs = pairs_of(RUNS, "channels=replicate")
    assert pairs_table(pairs, "title").rows == [
        ["s/channels=paper", "none", "2", "1", "+15.00", "+7.50"],
        ["s/channels=paper", "int8", "2", "1", "+0.00", "+0.00"],
    ]
    by_modality = pairs_by_modality_table(unquantized(pairs), "title")
    assert (by_modality.columns, by_modality.rows) == (["variant", "CT, n = 1"], [["s/channels=paper", "+15.00"]])
    assert pairs_of(RUNS, "absent") == []
    assert pairs_table(methods_of(RUNS), "title").rows == [
        ["s/channels=replicate", "int8", "2", "1", "-20.00", "-10.00"],
        ["s/channels=paper", "int8", "2", "1", "-35.00", "-17.50"],
    ]


def test_only_seeds_that_both_sides_have_are_compared() -> None:
    """Seed 1's other level is no gain of the variant, and no cost of a method that ran on seed 0 alone."""
    runs = [
        run("s/x=base", 0, none=result(CT_a=0.5), int8=result(CT_a=0.4)),
        run("s/x=base", 1, none=result(CT_a=0.9), int8=result()),
        run("s/x=new", 0, none=result(CT_a=0.6)),
    ]
    (pair,), (cost,) = pairs_of(runs, "x=base"), methods_of(runs)
    assert (pair.seeds, pair.macro["dsc"].mean) == (1, pytest.approx(0.1))
    assert (cost.seeds, cost.macro["dsc"].mean) == (1, pytest.approx(-0.1))


def test_each_sweep_is_compared_with_its_own_reference() -> None:
    """Another network's `replicate` says nothing about this one's channels; a whole name asks for just that."""
    other = [run("t/channels=replicate", none=result(CT_a=0.1)), run("t/channels=paper", none=result(CT_a=0.4))]
    found = {
        (pair.variant, pair.reference): pair.macro["dsc"].mean
        for pair in unquantized(pairs_of(RUNS + other, "channels=replicate"))
    }
    assert found == {
        ("s/channels=paper", "s/channels=replicate"): pytest.approx(0.15),
        ("t/channels=paper", "t/channels=replicate"): pytest.approx(0.3),
    }
    whole = unquantized(pairs_of(RUNS + other, "t/channels=replicate"))
    assert [pair.short_name for pair in whole] == ["s/channels=replicate", "s/channels=paper", "channels=paper"]


def test_a_runs_own_validation_counts_where_it_was_stored() -> None:
    """It holds all objects, where quantization.json may hold a part."""
    own = [
        replace(
            run("s/x=base", none=result(CT_a=0.5), int8=result(CT_a=0.4)), objects=result(CT_a=0.5, CT_b=0.5).objects
        ),
        replace(run("s/x=new", none=result(CT_a=0.6)), objects=result(CT_a=0.6, CT_b=0.8).objects),
        run("s/x=old", none=result(CT_a=0.4)),
    ]
    pairs = pairs_of(own, "x=base")
    assert [(p.variant, p.method, p.macro["dsc"].n) for p in pairs] == [
        ("s/x=new", OWN, 2), ("s/x=new", "none", 1), ("s/x=old", "none", 1),
    ]  # fmt: skip
    assert [p.method for p in unquantized(pairs)] == [OWN, "none"]
    assert [p.method for p in methods_of(own)] == ["int8"]


def test_verdicts_follow_the_intervals() -> None:
    """+10, -10, a mean of +2 between -10 and +14, no shared seed, and too few subjects for an interval."""

    def of(*dsc: float) -> MethodResult:
        return result(**{f"CT_{subject}": value for subject, value in zip("abcde", dsc, strict=False)})

    runs = [
        run("s/x=base", none=of(0.5, 0.5, 0.5, 0.5, 0.5)),
        run("s/x=good", none=of(0.6, 0.6, 0.6, 0.6, 0.6)),
        run("s/x=bad", none=of(0.4, 0.4, 0.4, 0.4, 0.4)),
        run("s/x=open", none=of(0.4, 0.7, 0.4, 0.7, 0.4)),
        run("s/x=other", seed=1, none=of(0.6, 0.6, 0.6, 0.6, 0.6)),
        run("s/x=few", none=of(0.6, 0.6, 0.6, 0.6)),
    ]
    pairs = pairs_of(runs, "x=base")
    assert rank(pairs, "dsc") == (
        "better: `x=good` +10.00 (+10.00 to +10.00); worse: `x=bad` -10.00 (-10.00 to -10.00); "
        "no difference shown: `x=open` +2.00 (-10.00 to +14.00); not compared: `x=other` -; "
        "too few subjects to tell: `x=few` +10.00 (+10.00 to +10.00)"
    )
    assert "`x=good` +5.00" in rank(pairs, "nsd")
