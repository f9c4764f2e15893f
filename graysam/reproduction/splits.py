"""Patients on both sides of a split by slices, beside a split by patients."""

from collections.abc import Mapping
from pathlib import Path

from graysam.data.challenge_source import subject_of
from graysam.data.split import Subject, hold_out
from graysam.io.cases import read_gts, training_name
from graysam.reproduction.checks import Cell, Check

FRACTIONS = (0.01, 0.1)  # held out by the paper, and by a variant of the released code
Groups = Mapping[str, Mapping[Subject, int]]  # group -> patient -> slices with an object

SYNTHETIC: Groups = {"CT_synthetic": {Subject("synthetic", f"{patient:03d}"): 40 for patient in range(100)}}


def read_patients(folder: Path) -> Groups:
    """Read the volumes of a folder of training NPZ, by modality and data set; 2D images are ignored.

    Raises:
        ValueError: no such folder, no volume with an object, or a file that cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"--train-npz {folder} is not a directory; required: <Modality>_<Dataset>_<case>.npz files")
    groups: dict[str, dict[Subject, int]] = {}
    for path in sorted(folder.rglob("*.npz")):
        gts, _ = read_gts(path)
        slices = int(gts.any(axis=(1, 2)).sum()) if gts.ndim == 3 else 0
        if slices:
            subject, name = subject_of(path.stem), training_name(path.stem)
            group = groups.setdefault(f"{name.modality}_{name.dataset}", {})
            group[subject] = group.get(subject, 0) + slices
    if not groups:
        raise ValueError(f"--train-npz {folder} has no volume with an object; required: .npz with gts (D,H,W)")
    return groups


def count_split(groups: Groups, fraction: float, *, by_slice: bool, seed: int = 0) -> tuple[int, int]:
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
    held_out = hold_out(patients, fraction, seed)
    sides = {(patient, unit in held_out) for units in patients.values() for unit, patient in units.items()}
    validated = {patient for patient, is_held_out in sides if is_held_out}
    return len(validated), len(validated & {patient for patient, is_held_out in sides if not is_held_out})


def count_leaks(train_npz: Path | None) -> Check:
    """Count the patients on both sides of splits of a folder of training NPZ, or of a synthetic set."""
    groups = SYNTHETIC if train_npz is None else read_patients(train_npz)
    patients = {patient for group in groups.values() for patient in group}
    slices = sum(count for group in groups.values() for count in group.values())
    counts: dict[tuple[float, str], tuple[int, int]] = {
        (fraction, unit): count_split(groups, fraction, by_slice=unit == "slice")
        for fraction in FRACTIONS
        for unit in ("slice", "patient")
    }
    held_out, both = counts[FRACTIONS[0], "slice"]
    rows: list[list[Cell]] = [[unit, 100 * fraction, *count] for (fraction, unit), count in counts.items()]
    return Check(
        "A split by slices validates on patients that it trains on",
        f"{'A synthetic set' if train_npz is None else 'The set'} has {len(patients)} patients and {slices} slices. "
        f"Holding out {100 * FRACTIONS[0]:g} % of the slices, as the released code does, takes slices of {held_out} "
        f"patients, and {both} of these also have slices to train on; with a split by patients the number is "
        f"{counts[FRACTIONS[0], 'patient'][1]}.",
        columns=("split by", "held out (%)", "patients held out", "also in training"),
        rows=rows,
    )
