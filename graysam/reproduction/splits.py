"""Patients on both sides of a split by slices, beside a split by patients."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from graysam.data.sources import subject_of
from graysam.data.split import Subject, hold_out
from graysam.io.cases import read_gts, training_name
from graysam.io.listing import list_folder
from graysam.reproduction.checks import Check

FRACTIONS = (0.01, 0.1)  # held out by the paper, and by a variant of the released code
Groups = Mapping[str, Mapping[Subject, int]]  # group -> patient -> slices with an object


def read_patients(folder: Path) -> Groups:
    """Read the volumes of a folder of training NPZ, by modality and data set; raise ValueError where there is none."""
    groups: dict[str, Counter[Subject]] = {}
    for path in list_folder(folder, recursive=True).files:
        gts, _ = read_gts(path, None)
        slices = int(gts.any(axis=(1, 2)).sum()) if gts.ndim == 3 else 0
        if slices:
            name = training_name(path.stem)
            groups.setdefault(f"{name.modality}_{name.dataset}", Counter())[subject_of(path.stem)] += slices
    if not groups:
        raise ValueError(f"--train-npz {folder} has no <Modality>_<Dataset>_<case>.npz of a volume with an object")
    return groups


def count_split(groups: Groups, fraction: float, *, by_slice: bool) -> tuple[int, int]:
    """Hold out a fraction of the slices or patients, as `graysam pack` does.

    Returns:
        The number of patients with slices held out, and how many of these also have slices to train on.
    """
    patients: dict[str, dict[Subject, Subject]] = {}  # group -> what is held out together -> its patient
    for group, slices in groups.items():
        patients[group] = {
            Subject(patient.dataset, f"{group}/{patient.subject}/{z}") if by_slice else patient: patient
            for patient, count in slices.items()
            for z in range(count)
        }
    held_out = hold_out(patients, fraction, 0)
    sides = {(patient, unit in held_out) for units in patients.values() for unit, patient in units.items()}
    validated = {patient for patient, is_held_out in sides if is_held_out}
    return len(validated), len(validated & {patient for patient, is_held_out in sides if not is_held_out})


def count_leaks(train_npz: Path | None) -> Check:
    """Count the patients on both sides of splits of a folder of training NPZ, or of a synthetic set."""
    groups: Groups = {"CT_synthetic": {Subject("synthetic", f"{patient:03d}"): 40 for patient in range(100)}}
    if train_npz is not None:
        groups = read_patients(train_npz)
    patients = {patient for group in groups.values() for patient in group}
    slices = sum(count for group in groups.values() for count in group.values())
    rows = [
        (unit, 100 * fraction, *count_split(groups, fraction, by_slice=unit == "slice"))
        for fraction in FRACTIONS
        for unit in ("slice", "patient")
    ]
    return Check(
        "A split by slices validates on patients that it trains on",
        f"{'A synthetic set' if train_npz is None else 'The set'} has {len(patients)} patients and {slices} slices. "
        f"Holding out {rows[0][1]:g} % of the slices, as the released code does, takes slices of {rows[0][2]} "
        f"patients, and {rows[0][3]} of these also have slices to train on; with a split by patients the number is "
        f"{rows[1][3]}.",
        columns=("split by", "held out (%)", "patients held out", "also in training"),
        rows=rows,
    )
