"""Pairs of runs: by object, averaged over seeds, then over a subject's objects, then over modalities."""

from dataclasses import replace
from pathlib import Path

import pytest

from graysam.reporting.conclusions import kind_conclusions, variant_conclusions
from graysam.reporting.paired_runs import (
    OWN,
    differences,
    kind_pairs,
    mean_objects,
    not_compared,
    pairs_by_modality_table,
    pairs_table,
    scored_modalities,
    subject_of,
    unquantized,
    variant_pairs,
)
from graysam.reporting.runs import Kind, ObjectScore, Run


def kind(**dsc_by_key: float) -> Kind:
    """Make a kind of objects `<modality>_<subject>_z<slice>`; NSD is half the DSC."""
    objects = {(key, 0): ObjectScore(key.partition("_")[0], dsc, dsc / 2) for key, dsc in dsc_by_key.items()}
    return Kind(objects=objects)


def run(name: str, seed: int = 0, problem: str = "", **kinds: Kind) -> Run:
    return Run(Path(name) / str(seed), name, seed, kinds=kinds, problem=problem)


def test_slices_of_a_patient_are_one_subject() -> None:
    assert subject_of("CT_STS_STS020_z0007") == subject_of("CT_STS_STS020_z0123") == "CT_STS_STS020"
    assert subject_of("US_HC18_001") == "US_HC18_001"
    assert subject_of("MR_MNI152_axial_0002") == subject_of("MR_MNI152_sagittal_0100") == "MR_MNI152"


def test_seeds_are_averaged_object_by_object() -> None:
    found = mean_objects([kind(CT_a_z1=0.5, CT_a_z2=0.25).objects, kind(CT_a_z1=0.75, US_b=1.0).objects])
    assert found == {("CT_a_z1", 0): ("CT", 0.625, 0.3125)}
    assert mean_objects([]) == {}


def test_a_difference_by_hand() -> None:
    first = kind(CT_a_z1=0.5, CT_a_z2=0.5, CT_b_z1=0.5, US_c=0.5, only=0.1).objects
    second = kind(CT_a_z1=0.6, CT_a_z2=0.8, CT_b_z1=0.5, US_c=0.4).objects
    found = differences(first, second, "dsc")
    assert list(found) == ["CT", "US", "macro"]
    assert (found["CT"].mean, found["US"].mean) == pytest.approx((0.1, -0.1))
    macro = found["macro"]
    assert macro.mean == pytest.approx(((0.2 + 0.0) / 2 - 0.1) / 2), "CT: patients a and b alike; US: one image"
    assert macro.n == 3
    assert (macro.low, macro.high) == pytest.approx((-0.05, 0.05)), "US cannot vary"
    assert differences(first, second, "nsd")["macro"].mean == pytest.approx(macro.mean / 2)
    assert differences({}, second, "dsc")["macro"].n == 0


def test_macro_averages_can_be_over_some_modalities() -> None:
    first = kind(CT_a=0.5, US_b=0.5, MR_c=0.5).objects
    second = kind(CT_a=0.6, US_b=0.9, MR_c=0.8).objects
    found = differences(first, second, "dsc", over=("CT", "MR"))
    assert {name: round(one.mean, 9) for name, one in found.items()} == {"CT": 0.1, "MR": 0.3, "US": 0.4, "macro": 0.2}
    assert found["macro"].n == 2
    runs = [
        replace(RUNS[0], kinds={"none": Kind(objects=first)}),
        replace(RUNS[2], kinds={"none": Kind(objects=second)}),
    ]
    (pair,) = variant_pairs(runs, "channels=replicate", over=("US",))
    assert pair.dsc["macro"].mean == pytest.approx(0.4)
    assert scored_modalities(runs) == {"CT", "MR", "US"}


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
    run("s/channels=replicate", 0, none=kind(CT_a=0.5), int8=kind(CT_a=0.4)),
    run("s/channels=replicate", 1, none=kind(CT_a=0.7), int8=kind(CT_a=0.4)),
    run("s/channels=paper", 0, none=kind(CT_a=0.6), int8=kind(CT_a=0.4)),
    run("s/channels=paper", 1, none=kind(CT_a=0.9), int8=kind(CT_a=0.4)),
    run("s/channels=released", problem="unfinished: 1 of 3 epochs", none=kind(CT_a=0.1)),
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
    """Seed 1's other level is no gain of the variant, and no cost of a kind that ran on seed 0 alone."""
    runs = [
        run("s/x=base", 0, none=kind(CT_a=0.5), int8=kind(CT_a=0.4)),
        run("s/x=base", 1, none=kind(CT_a=0.9), int8=kind()),
        run("s/x=new", 0, none=kind(CT_a=0.6)),
    ]
    (pair,) = variant_pairs(runs, "x=base")
    assert (pair.seeds, pair.dsc["macro"].mean) == (1, pytest.approx(0.1))
    (cost,) = kind_pairs(runs)
    assert (cost.seeds, cost.dsc["macro"].mean) == (1, pytest.approx(-0.1))


def test_a_run_that_stands_there_twice_counts_once() -> None:
    again = replace(RUNS[0], path=Path("t/elsewhere"), kinds={"none": kind(CT_a=0.1)})
    assert variant_pairs([*RUNS, again], "channels=replicate") == variant_pairs(RUNS, "channels=replicate")


def test_what_cannot_be_compared_is_said() -> None:
    """Other seeds, other objects, or no reference in its sweep."""
    runs = [
        run("s/x=base", 0, none=kind(CT_a=0.5), int8=kind(CT_b=0.5)),
        run("s/x=new", 1, none=kind(CT_a=0.6)),
        run("t/x=new", 0, none=kind(CT_a=0.6)),
    ]
    pairs = variant_pairs(runs, "x=base")
    assert variant_conclusions(pairs)[0] == "Against `s/x=base`, DSC in points: not compared: `x=new` -."
    assert not_compared(runs, pairs) == ["s/x=new", "t/x=new"]
    assert kind_conclusions(kind_pairs(runs)) == ["`int8` changes `s`: 1 variants not compared, for no seed has both."]
    assert not_compared(RUNS, variant_pairs(RUNS, "channels=replicate")) == []


def test_quantized_kinds_are_held_against_their_own_plain_weights() -> None:
    assert pairs_table(kind_pairs(RUNS), "title").rows == [
        ["s/channels=paper", "int8", "2", "1", "-35.00", "-17.50"],
        ["s/channels=replicate", "int8", "2", "1", "-20.00", "-10.00"],
    ]
    assert kind_pairs([run("a")]) == []
    alone = [run("a", none=kind(CT_a=0.5), int8=kind(CT_a=0.4)), run("b", none=kind(CT_a=0.5), int8=kind(CT_a=0.3))]
    assert [line.partition(":")[0] for line in kind_conclusions(kind_pairs(alone))] == [
        "`int8` changes `a`",
        "`int8` changes `b`",
    ]


def test_each_sweep_is_held_against_its_own_reference() -> None:
    """Another network's `replicate` says nothing about this one's channels; a whole name asks for just that."""
    other = [run("t/channels=replicate", none=kind(CT_a=0.1)), run("t/channels=paper", none=kind(CT_a=0.4))]
    found = {(p.variant, p.reference): p.dsc["macro"].mean for p in variant_pairs(RUNS + other, "channels=replicate")
             if p.kind == "none"}  # fmt: skip
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
        replace(run("s/x=base", none=kind(CT_a=0.5), int8=kind(CT_a=0.4)), objects=kind(CT_a=0.5, CT_b=0.5).objects),
        replace(run("s/x=new", none=kind(CT_a=0.6)), objects=kind(CT_a=0.6, CT_b=0.8).objects),
    ]
    pairs = variant_pairs(own, "x=base")
    assert [(p.kind, p.dsc["macro"].n, p.dsc["macro"].mean) for p in pairs] == [
        (OWN, 2, pytest.approx(0.2)), ("none", 1, pytest.approx(0.1)),
    ]  # fmt: skip
    assert [p.kind for p in unquantized(pairs)] == [OWN]
    assert "too few subjects to tell: `x=new` +20.00 (+10.00 to +30.00)" in variant_conclusions(pairs)[0]
    assert [p.kind for p in kind_pairs(own)] == ["int8"]
    older = [own[0], run("s/x=old", none=kind(CT_a=0.4)), own[1]]
    assert [(p.variant, p.kind) for p in unquantized(variant_pairs(older, "x=base"))] == [
        ("s/x=new", OWN), ("s/x=old", "none"),
    ]  # fmt: skip


def test_conclusions_follow_the_intervals() -> None:
    """Better, worse, and what the numbers do not tell apart: +10, -10, and a mean of +2 between -10 and +20."""

    def of(*dsc: float) -> Kind:
        return kind(**{f"CT_{subject}": value for subject, value in zip("abcde", dsc, strict=True)})

    runs = [
        run("s/x=base", none=of(0.5, 0.5, 0.5, 0.5, 0.5), int8=of(0.4, 0.4, 0.4, 0.4, 0.4)),
        run("s/x=good", none=of(0.6, 0.6, 0.6, 0.6, 0.6), int8=of(0.8, 0.4, 0.8, 0.4, 0.6)),
        run("s/x=bad", none=of(0.4, 0.4, 0.4, 0.4, 0.4)),
        run("s/x=open", none=of(0.4, 0.7, 0.4, 0.7, 0.4)),
    ]
    dsc, nsd, limits = variant_conclusions(variant_pairs(runs, "x=base"))
    assert dsc == (
        "Against `s/x=base`, DSC in points: better: `x=good` +10.00 (+10.00 to +10.00); "
        "worse: `x=bad` -10.00 (-10.00 to -10.00); no difference shown: `x=open` +2.00 (-10.00 to +14.00)."
    )
    assert "NSD" in nsd
    assert "`x=good` +5.00" in nsd
    assert limits.endswith("A patient's modalities are drawn apart.")
    (line,) = kind_conclusions(kind_pairs(runs))
    assert line == (
        "`int8` changes `s`: DSC by -10.00 to +0.00 points, with an interval apart from 0 in 1 of 2 variants; "
        "NSD by -5.00 to +0.00 points, with an interval apart from 0 in 1 of 2 variants."
    )


def test_few_subjects_show_nothing() -> None:
    """Of one there is no interval, of four it is far too narrow; a single one among others is named."""
    four = {f"CT_{subject}": 0.5 for subject in "abcd"}
    runs = [run("s/x=base", none=kind(**four)), run("s/x=new", none=kind(**dict.fromkeys(four, 0.6)))]
    assert (
        "too few subjects to tell: `x=new` +10.00 (+10.00 to +10.00)."
        in variant_conclusions(variant_pairs(runs, "x=base"))[0]
    )
    dsc, _, limits = variant_conclusions(variant_pairs(RUNS, "channels=replicate"))
    assert dsc.endswith("DSC in points: too few subjects to tell: `channels=paper` +15.00.")
    assert limits.endswith("With one subject only, and so without a spread of its own: CT.")
    assert variant_conclusions([]) == kind_conclusions([]) == []
