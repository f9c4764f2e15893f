"""Pairs of runs: by object, averaged over seeds, then over a subject's objects, then over modalities."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from graysam.metrics.aggregation import Estimate
from graysam.reporting.paired_runs import (
    OWN,
    Pair,
    method_conclusions,
    method_pairs,
    not_compared,
    pairs_by_modality_table,
    pairs_table,
    subject_of,
    unquantized,
    variant_conclusions,
    variant_pairs,
)
from graysam.reporting.runs import Run
from graysam.reporting.schemas import MethodResult, ObjectScore


def result(**dsc_by_key: float) -> MethodResult:
    """Make a result of objects `<modality>_<subject>_z<slice>`; NSD is half the DSC."""
    objects = {(key, 0): ObjectScore(key.partition("_")[0], dsc, dsc / 2) for key, dsc in dsc_by_key.items()}
    return MethodResult(objects=objects)


def run(name: str, seed: int = 0, problem: str = "", **methods: MethodResult) -> Run:
    return Run(Path(name) / str(seed), name, seed, methods=methods, problem=problem)


def compare(first: MethodResult, second: MethodResult, over: tuple[str, ...] = ()) -> Pair:
    """Compare two runs of these objects."""
    (pair,) = variant_pairs([run("s/base", none=first), run("s/new", none=second)], "base", over)
    return pair


def means(differences: Mapping[str, Estimate]) -> dict[str, float]:
    return {name: pytest.approx(one.mean) for name, one in differences.items()}


def test_slices_of_a_patient_are_one_subject() -> None:
    assert subject_of("CT_STS_STS020_z0007") == subject_of("CT_STS_STS020_z0123") == "CT_STS_STS020"
    assert subject_of("US_HC18_001") == "US_HC18_001"
    assert subject_of("MR_MNI152_axial_0002") == subject_of("MR_MNI152_sagittal_0100") == "MR_MNI152"


def test_seeds_are_averaged_over_the_objects_that_all_of_them_scored() -> None:
    runs = [
        run("s/base", 0, none=result(CT_a_z1=0.5, CT_a_z2=0.25)),
        run("s/base", 1, none=result(CT_a_z1=0.75, US_b=1.0)),
        run("s/new", 0, none=result(CT_a_z1=0.75, CT_a_z2=0.25, US_b=0.5)),
        run("s/new", 1, none=result(CT_a_z1=1.0, CT_a_z2=0.25, US_b=0.5)),
    ]
    (pair,) = variant_pairs(runs, "base")
    assert means(pair.dsc) == {"CT": 0.25, "macro": 0.25} and pair.seeds == 2


def test_a_difference_by_hand() -> None:
    first = result(CT_a_z1=0.5, CT_a_z2=0.5, CT_b_z1=0.5, US_c=0.5, only=0.1)
    second = result(CT_a_z1=0.6, CT_a_z2=0.8, CT_b_z1=0.5, US_c=0.4)
    pair = compare(first, second)
    # CT: patients a (+0.2) and b (0) alike; US: one image, which cannot vary.
    assert means(pair.dsc) == {"CT": 0.1, "US": -0.1, "macro": 0}
    assert means(pair.nsd) == {"CT": 0.05, "US": -0.05, "macro": 0}
    macro = pair.dsc["macro"]
    assert (macro.n, macro.low, macro.high) == (3, pytest.approx(-0.05), pytest.approx(0.05))
    assert compare(result(CT_a=1), result(CT_b=1)).dsc["macro"].n == 0


def test_macro_averages_can_be_over_some_modalities() -> None:
    first, second = result(CT_a=0.5, US_b=0.5, MR_c=0.5), result(CT_a=0.6, US_b=0.9, MR_c=0.8)
    pair = compare(first, second, over=("CT", "MR"))
    assert means(pair.dsc) == {"CT": 0.1, "MR": 0.3, "US": 0.4, "macro": 0.2}
    assert pair.dsc["macro"].n == 2


def test_runs_that_score_other_boxes_are_not_compared() -> None:
    """Object 1 of a slice is another label where more of its labels are scored."""
    runs = [
        replace(RUNS[0], config={"data": {"val_boxes_per_image": 4, "size": 256}}),
        replace(RUNS[2], config={"data": {"val_boxes_per_image": 8, "size": 256}}),
    ]
    assert variant_pairs(runs, "channels=replicate") == []
    runs[1] = replace(runs[1], config=runs[0].config)
    assert len(variant_pairs(runs, "channels=replicate")) == 2


RUNS = [
    run("s/channels=replicate", 0, none=result(CT_a=0.5), int8=result(CT_a=0.4)),
    run("s/channels=replicate", 1, none=result(CT_a=0.7), int8=result(CT_a=0.4)),
    run("s/channels=paper", 0, none=result(CT_a=0.6), int8=result(CT_a=0.4)),
    run("s/channels=paper", 1, none=result(CT_a=0.9), int8=result(CT_a=0.4)),
    run("s/channels=released", problem="unfinished: 1 of 3 epochs", none=result(CT_a=0.1)),
]


def test_variants_are_held_against_one_of_them() -> None:
    pairs = variant_pairs(RUNS, "channels=replicate")
    assert pairs_table(pairs, "title").rows == [
        ["s/channels=paper", "none", "2", "1", "+15.00", "+7.50"],
        ["s/channels=paper", "int8", "2", "1", "+0.00", "+0.00"],
    ]
    by_modality = pairs_by_modality_table(unquantized(pairs), "title")
    assert (by_modality.columns, by_modality.rows) == (["variant", "CT, n = 1"], [["s/channels=paper", "+15.00"]])
    assert variant_pairs(RUNS, "absent") == []
    assert variant_pairs([run("a"), run("b")], "a") == []


def test_only_seeds_that_both_sides_have_are_compared() -> None:
    """Seed 1's other level is no gain of the variant, and no cost of a method that ran on seed 0 alone."""
    runs = [
        run("s/x=base", 0, none=result(CT_a=0.5), int8=result(CT_a=0.4)),
        run("s/x=base", 1, none=result(CT_a=0.9), int8=result()),
        run("s/x=new", 0, none=result(CT_a=0.6)),
    ]
    (pair,) = variant_pairs(runs, "x=base")
    assert (pair.seeds, pair.dsc["macro"].mean) == (1, pytest.approx(0.1))
    (cost,) = method_pairs(runs)
    assert (cost.seeds, cost.dsc["macro"].mean) == (1, pytest.approx(-0.1))


def test_a_run_that_stands_there_twice_counts_once() -> None:
    again = replace(RUNS[0], path=Path("t/elsewhere"), methods={"none": result(CT_a=0.1)})
    assert variant_pairs([*RUNS, again], "channels=replicate") == variant_pairs(RUNS, "channels=replicate")


def test_what_cannot_be_compared_is_said() -> None:
    """Other seeds, other objects, or no reference in its sweep."""
    runs = [
        run("s/x=base", 0, none=result(CT_a=0.5), int8=result(CT_b=0.5)),
        run("s/x=new", 1, none=result(CT_a=0.6)),
        run("t/x=new", 0, none=result(CT_a=0.6)),
    ]
    pairs = variant_pairs(runs, "x=base")
    assert variant_conclusions(pairs)[0] == "Against `s/x=base`, DSC in points: not compared: `x=new` -."
    assert not_compared(runs, pairs) == ["s/x=new", "t/x=new"]
    assert method_conclusions(method_pairs(runs)) == [
        "`int8` changes `s`: 1 variants not compared, because no seed has both."
    ]
    assert not_compared(RUNS, variant_pairs(RUNS, "channels=replicate")) == []


def test_quantization_methods_are_held_against_their_own_plain_weights() -> None:
    assert pairs_table(method_pairs(RUNS), "title").rows == [
        ["s/channels=paper", "int8", "2", "1", "-35.00", "-17.50"],
        ["s/channels=replicate", "int8", "2", "1", "-20.00", "-10.00"],
    ]
    assert method_pairs([run("a")]) == []
    alone = [
        run("a", none=result(CT_a=0.5), int8=result(CT_a=0.4)),
        run("b", none=result(CT_a=0.5), int8=result(CT_a=0.3)),
    ]
    assert [line.partition(":")[0] for line in method_conclusions(method_pairs(alone))] == [
        "`int8` changes `a`",
        "`int8` changes `b`",
    ]


def test_each_sweep_is_held_against_its_own_reference() -> None:
    """Another network's `replicate` says nothing about this one's channels; a whole name asks for just that."""
    other = [run("t/channels=replicate", none=result(CT_a=0.1)), run("t/channels=paper", none=result(CT_a=0.4))]
    found = {(p.variant, p.reference): p.dsc["macro"].mean for p in variant_pairs(RUNS + other, "channels=replicate")
             if p.method == "none"}  # fmt: skip
    assert found == {
        ("s/channels=paper", "s/channels=replicate"): pytest.approx(0.15),
        ("t/channels=paper", "t/channels=replicate"): pytest.approx(0.3),
    }
    whole = variant_pairs(RUNS + other, "t/channels=replicate")
    assert {p.variant for p in whole} == {"s/channels=paper", "s/channels=replicate", "t/channels=paper"}
    said = variant_conclusions(whole)[0]
    assert all(f"`{name}`" in said for name in ("s/channels=paper", "s/channels=replicate", "channels=paper"))


def test_a_runs_own_validation_counts_where_every_seed_has_it() -> None:
    """It holds all objects, where a benchmark may hold a part; quantized kinds stay with the benchmark's."""
    own = [
        replace(
            run("s/x=base", none=result(CT_a=0.5), int8=result(CT_a=0.4)), objects=result(CT_a=0.5, CT_b=0.5).objects
        ),
        replace(run("s/x=new", none=result(CT_a=0.6)), objects=result(CT_a=0.6, CT_b=0.8).objects),
    ]
    pairs = variant_pairs(own, "x=base")
    assert [(p.method, p.dsc["macro"].n, p.dsc["macro"].mean) for p in pairs] == [
        (OWN, 2, pytest.approx(0.2)), ("none", 1, pytest.approx(0.1)),
    ]  # fmt: skip
    assert [p.method for p in unquantized(pairs)] == [OWN]
    assert "too few subjects to tell: `x=new` +20.00 (+10.00 to +30.00)" in variant_conclusions(pairs)[0]
    assert [p.method for p in method_pairs(own)] == ["int8"]
    older = [own[0], run("s/x=old", none=result(CT_a=0.4)), own[1]]
    assert [(p.variant, p.method) for p in unquantized(variant_pairs(older, "x=base"))] == [
        ("s/x=new", OWN), ("s/x=old", "none"),
    ]  # fmt: skip


def test_conclusions_follow_the_intervals() -> None:
    """Better, worse, and what the numbers do not tell apart: +10, -10, and a mean of +2 between -10 and +20."""

    def of(*dsc: float) -> MethodResult:
        return result(**{f"CT_{subject}": value for subject, value in zip("abcde", dsc, strict=True)})

    runs = [
        run("s/x=base", none=of(0.5, 0.5, 0.5, 0.5, 0.5), int8=of(0.4, 0.4, 0.4, 0.4, 0.4)),
        run("s/x=good", none=of(0.6, 0.6, 0.6, 0.6, 0.6), int8=of(0.8, 0.4, 0.8, 0.4, 0.6)),
        run("s/x=bad", none=of(0.4, 0.4, 0.4, 0.4, 0.4)),
        run("s/x=open", none=of(0.4, 0.7, 0.4, 0.7, 0.4)),
    ]
    dsc, nsd = variant_conclusions(variant_pairs(runs, "x=base"))
    assert dsc == (
        "Against `s/x=base`, DSC in points: better: `x=good` +10.00 (+10.00 to +10.00); "
        "worse: `x=bad` -10.00 (-10.00 to -10.00); no difference shown: `x=open` +2.00 (-10.00 to +14.00)."
    )
    assert "NSD" in nsd
    assert "`x=good` +5.00" in nsd
    (line,) = method_conclusions(method_pairs(runs))
    assert line == (
        "`int8` changes `s`: DSC by -10.00 to +0.00 points, with an interval that excludes 0 in 1 of 2 variants; "
        "NSD by -5.00 to +0.00 points, with an interval that excludes 0 in 1 of 2 variants."
    )


def test_few_subjects_show_nothing() -> None:
    """Of one there is no interval, of four it is far too narrow; a single one among others is named."""
    four = {f"CT_{subject}": 0.5 for subject in "abcd"}
    runs = [run("s/x=base", none=result(**four)), run("s/x=new", none=result(**dict.fromkeys(four, 0.6)))]
    assert (
        "too few subjects to tell: `x=new` +10.00 (+10.00 to +10.00)."
        in variant_conclusions(variant_pairs(runs, "x=base"))[0]
    )
    dsc, _ = variant_conclusions(variant_pairs(RUNS, "channels=replicate"))
    assert dsc.endswith("DSC in points: too few subjects to tell: `channels=paper` +15.00.")
    assert variant_conclusions([]) == method_conclusions([]) == []
