"""Pairs of runs: by object, averaged over seeds, then over a subject's objects, then over modalities."""

from pathlib import Path
from typing import Any

import pytest

from graysam.reporting.paired_runs import difference, kinds_differences_table, mean_objects, subject_of, variants_table
from graysam.reporting.runs import Kind, Run


def kind(**dsc_by_key: float) -> Kind:
    """Make a kind of objects `<modality>_<subject>_z<slice>`; NSD is half the DSC."""
    objects = {(key, 0): (key.partition("_")[0], dsc, dsc / 2) for key, dsc in dsc_by_key.items()}
    return Kind(objects=objects)


def run(name: str, seed: int = 0, problem: str = "", **kinds: Kind) -> Run:
    return Run(Path(name) / str(seed), name, seed, kinds=kinds, problem=problem)


def test_slices_of_a_patient_are_one_subject() -> None:
    assert subject_of("CT_STS_STS020_z0007") == subject_of("CT_STS_STS020_z0123") == "CT_STS_STS020"
    assert subject_of("US_HC18_001") == "US_HC18_001"


def test_seeds_are_averaged_object_by_object() -> None:
    found = mean_objects([kind(CT_a_z1=0.5, CT_a_z2=0.25), kind(CT_a_z1=0.75, US_b=1.0)])
    assert found == {("CT_a_z1", 0): ("CT", 0.625, 0.3125)}
    assert mean_objects([]) == {}


def test_a_difference_by_hand() -> None:
    first = kind(CT_a_z1=0.5, CT_a_z2=0.5, CT_b_z1=0.5, US_c=0.5, only=0.1).objects
    second = kind(CT_a_z1=0.6, CT_a_z2=0.8, CT_b_z1=0.5, US_c=0.4).objects
    found = difference(first, second, 1)
    assert found.mean == pytest.approx(((0.2 + 0.0) / 2 - 0.1) / 2), "CT: patients a and b alike; US: one image"
    assert found.n == 3
    assert (found.low, found.high) == pytest.approx((-0.05, 0.05)), "US cannot vary"
    assert difference(first, second, 2).mean == pytest.approx(found.mean / 2)
    assert difference({}, second, 1).n == 0


def test_variants_are_held_against_one_of_them() -> None:
    runs = [
        run("s/channels=replicate", none=kind(CT_a=0.5), int8=kind(CT_a=0.4)),
        run("s/channels=paper", 0, none=kind(CT_a=0.6), int8=kind(CT_a=0.4)),
        run("s/channels=paper", 1, none=kind(CT_a=0.8), int8=kind(CT_a=0.4)),
        run("s/channels=released", problem="unfinished: 1 of 3 epochs", none=kind(CT_a=0.1)),
    ]
    table = variants_table(runs, "channels=replicate")
    assert table is not None
    assert table.rows == [
        ["s/channels=paper", "none", "1", "+20.00", "+10.00"],
        ["s/channels=paper", "int8", "1", "+0.00", "+0.00"],
    ]
    assert variants_table(runs, "absent") is None
    assert variants_table([run("a"), run("b")], "a") is None
    costs: Any = kinds_differences_table(runs)
    assert costs.rows == [
        ["s/channels=paper", "int8", "1", "-30.00", "-15.00"],
        ["s/channels=replicate", "int8", "1", "-10.00", "-5.00"],
    ]
    assert kinds_differences_table([run("a")]) is None
