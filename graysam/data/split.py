"""Split samples into training and validation by patient, so that no patient is on both sides."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

SplitBy = Literal["patient", "slice"]


class Subject(NamedTuple):
    """A patient of a dataset (in 2D: an image), over all modalities."""

    dataset: str
    subject: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.subject}"


@dataclass(frozen=True, kw_only=True)
class Split:
    """How samples are divided.

    Args:
        val_fraction: part of each group that is held out; 0 holds nothing out.
        split_by: `patient` keeps all slices of a patient together; `slice` does not, as in the released code, which
            then validates on patients that it was trained on.
        seed: of the draw.
    """

    val_fraction: float
    split_by: SplitBy
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; required: 0 (hold nothing out) to below 1")

    def assign(self, samples: Sequence[tuple[str, str, Subject]]) -> tuple[list[str], dict[str, Any]]:
        """Return `train` or `val` for each sample (its key, group and subject), and the manifest's description."""
        by_slice = self.split_by == "slice"
        units = [Subject(subject.dataset, key) if by_slice else subject for key, _, subject in samples]
        groups: dict[str, set[Subject]] = {group: set() for group in sorted({group for _, group, _ in samples})}
        for (_, group, _), unit in zip(samples, units, strict=True):
            groups[group].add(unit)
        held_out = hold_out(groups, self.val_fraction, self.seed)
        sides = {(subject, unit in held_out) for (_, _, subject), unit in zip(samples, units, strict=True)}
        slices = "slice (3D) or image (2D): a patient's slices are on both sides"
        description = {
            "split_by": self.split_by,
            "by": slices if by_slice else "dataset and patient (3D) or image (2D)",
            "val_fraction": self.val_fraction,
            "seed": self.seed,
            "val_subjects": {group: sorted(map(str, members & held_out)) for group, members in groups.items()},
            "subjects": {group: len(members) for group, members in groups.items()},
            "patients_on_both_sides": len(sides) - len({subject for _, _, subject in samples}),
            "groups_without_val": [group for group, members in groups.items() if not members & held_out],
        }
        return ["val" if unit in held_out else "train" for unit in units], description


def hold_out(groups: Mapping[str, Collection[Subject]], val_fraction: float, seed: int) -> frozenset[Subject]:
    """Choose the subjects held out for validation; a subject of several groups is held out in all of them.

    From each group val_fraction of the subjects are taken, rounded, and at least one, but never its last training
    subject: a group of one subject is not validated. Subjects are drawn in the order of a seeded hash of their name,
    so that one added case does not reshuffle the others.
    """
    if val_fraction == 0:
        return frozenset()
    groups_of: dict[Subject, set[str]] = {}
    for group, subjects in groups.items():
        for subject in subjects:
            groups_of.setdefault(subject, set()).add(group)
    order = sorted(
        groups_of, key=lambda s: (hashlib.sha256(f"{seed}/{s}".encode(errors="surrogateescape")).digest(), s)
    )
    training = {group: len(set(subjects)) for group, subjects in groups.items()}
    missing = {group: max(1, math.floor(val_fraction * count + 0.5)) for group, count in training.items()}
    held_out = set()
    for group in sorted(groups, key=lambda g: (training[g], g)):  # small groups first: they have the least choice
        for subject in order:
            if missing[group] <= 0:
                break
            shared = groups_of[subject]
            if group in shared and subject not in held_out and all(training[other] > 1 for other in shared):
                held_out.add(subject)
                for other in shared:
                    training[other] -= 1
                    missing[other] -= 1
    return frozenset(held_out)
