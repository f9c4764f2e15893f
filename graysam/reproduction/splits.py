"""How many patients a split by slices puts on both sides, beside a split by patients."""

from collections.abc import Mapping
from pathlib import Path

from graysam.data.challenge_source import subject_of
from graysam.data.split import Subject, hold_out
from graysam.io.cases import read_gts, training_name
from graysam.reproduction.finding import Cell, Finding

FRACTIONS = (0.01, 0.1)  # held out: the paper's, and the released code's other one
_PATIENTS, _SLICES = 100, 40  # of the made-up set
Groups = Mapping[str, Mapping[Subject, int]]  # group -> patient -> slices with an object


def made_up_patients() -> Groups:
    """Return one group of 100 patients with 40 slices each."""
    return {"CT_made-up": {Subject("made-up", f"{patient:03d}"): _SLICES for patient in range(_PATIENTS)}}


def read_patients(folder: Path) -> Groups:
    """Return the volumes below a folder of training NPZ by modality and data set; images are left out.

    Raises:
        ValueError: no such folder, no volume with an object in it, or a file that cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"--train-npz {folder} is no folder; required: a folder of <Modality>_<Dataset>_<case>.npz")
    groups: dict[str, dict[Subject, int]] = {}
    for path in sorted(folder.rglob("*.npz")):
        gts, _ = read_gts(path)
        slices = int(gts.any(axis=(1, 2)).sum()) if gts.ndim == 3 else 0
        if slices:
            subject, name = subject_of(path.stem), training_name(path.stem)
            group = groups.setdefault(f"{name.modality}_{name.dataset}", {})
            group[subject] = group.get(subject, 0) + slices
    if not groups:
        raise ValueError(f"--train-npz {folder} holds no volume with an object; required: .npz with gts (D,H,W)")
    return groups


def sides(groups: Groups, fraction: float, *, by_slice: bool, seed: int = 0) -> tuple[int, int]:
    """Hold out a fraction of slices or of patients, as `graysam.pack` does.

    Returns:
        How many patients have slices held out, and how many of these have others to train on.
    """
    units: dict[str, dict[Subject, Subject]] = {}  # group -> what is held out together -> its patient
    for group, patients in groups.items():
        units[group] = {
            Subject(patient.dataset, f"{group}/{patient.subject}/{z}") if by_slice else patient: patient
            for patient, slices in patients.items()
            for z in range(slices)
        }
    chosen = hold_out(units, fraction, seed)
    owners = [(patient, unit in chosen) for group in units.values() for unit, patient in group.items()]
    held_out = {patient for patient, is_out in owners if is_out}
    return len(held_out), len(held_out & {patient for patient, is_out in owners if not is_out})


def count_leaks(command: str, train_npz: Path | None) -> Finding:
    """Return the patients on both sides of splits; of a made-up set where no folder of training NPZ is given.

    Raises:
        ValueError: as `read_patients`.
    """
    groups = made_up_patients() if train_npz is None else read_patients(train_npz)
    patients = {patient for group in groups.values() for patient in group}
    slices = sum(count for group in groups.values() for count in group.values())
    rows: list[list[Cell]] = []
    for fraction in FRACTIONS:
        for by_slice in (True, False):
            rows.append(
                ["slice" if by_slice else "patient", 100 * fraction, *sides(groups, fraction, by_slice=by_slice)]
            )
    _, percent, held_out, both = rows[0]
    what = "a made-up set" if train_npz is None else "these files"
    return Finding(
        name="split",
        title="A split by slices validates on patients that it trains on",
        command=command,
        summary=(
            f"Of {what} with {len(patients)} patients and {slices} slices, holding out {percent:g} % of the slices, as "
            f"the released code does, takes slices of {held_out} patients, and other slices of {both} of these are "
            f"trained on; held out by patient, it is {rows[1][3]}."
        ),
        columns=("split by", "held out (%)", "patients held out", "also in training"),
        rows=rows,
    )
