"""Source of labelled samples: a folder of the challenge's training NPZ."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from graysam.data.encoding import encode_labelled_image
from graysam.data.packing import PackedCase, Source, key_from
from graysam.data.split import Subject
from graysam.imaging.canvas import to_uint8
from graysam.io.cases import CaseError, SpacingOrder, read_training_case, training_name


@dataclass(frozen=True, kw_only=True)
class ChallengeSource(Source):
    """`<Modality>_<Dataset>_<case>.npz`; a 2D image gives one sample, a volume one for each slice with an object.

    Args:
        spacing_order: order of the stored spacing.
        patient_pattern: regular expression with one group that finds the patient in the case part of a file's name,
            for datasets with several volumes of a patient; None takes the whole part.
    """

    layout: ClassVar[str] = "npz"
    suffixes: ClassVar[frozenset[str]] = frozenset((".npz",))
    required: ClassVar[str] = "<Modality>_<Dataset>_<case>.npz"

    spacing_order: SpacingOrder
    patient_pattern: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spacing_order not in ("zyx", "xyz"):
            raise ValueError(f"spacing_order is {self.spacing_order!r}; required: zyx or xyz")
        try:
            groups = 1 if self.patient_pattern is None else re.compile(self.patient_pattern).groups
        except re.error as error:
            raise ValueError(f"patient_pattern is not a regular expression: {error}") from None
        if groups != 1:
            raise ValueError(
                f"patient_pattern {self.patient_pattern!r} has {groups} groups; required: one, the patient"
            )

    def settings(self) -> dict[str, Any]:
        """Return the settings of this layout for the manifest."""
        return {"spacing_order_read": self.spacing_order, "patient_pattern": self.patient_pattern}

    def key_of(self, file: str) -> str:
        """Return a case's name as a key."""
        return key_from(Path(file).stem)

    def encode(self, file: str) -> PackedCase:
        """Read a case and encode its slices that hold objects."""
        subject = subject_of(Path(file).stem, self.patient_pattern)
        case = read_training_case(self.folder / file, self.spacing_order)
        stored, gts = case.image, np.asarray(case.gts)
        pixels = to_uint8(stored.pixels)
        group, unit = stored.modality, "images"
        slices: list[int | None] = [None]
        if stored.is_volume:
            group, unit = f"{stored.modality}_{subject.dataset}", "slices"
            slices = list(range(len(gts)))
        left_out: Counter[str] = Counter()
        samples = []
        for slice_index in slices:
            here = ... if slice_index is None else slice_index
            if not gts[here].any():
                left_out[f"{unit}_without_objects"] += 1
                continue
            sample, vanished = encode_labelled_image(
                self.key_of(file) if slice_index is None else f"{self.key_of(file)}_z{slice_index:04d}",
                pixels[here],
                [gts[here]],
                size=self.size,
                group=group,
                modality=stored.modality,
                meta={
                    "case_id": stored.name,
                    "subject_id": subject.subject,
                    "dataset": subject.dataset,
                    "slice_index": slice_index,
                    "spacing_mm_zyx": stored.spacing_mm,
                },
            )
            left_out["labels_vanished_in_resizing"] += vanished
            if sample is None:
                left_out["slices_emptied_by_resizing"] += 1
            else:
                samples.append(sample)
        left_out["cases_without_samples"] = int(not samples)
        return PackedCase(file, subject, tuple(samples), left_out)


def subject_of(name: str, patient_pattern: str | None = None) -> Subject:
    """Return the dataset and the patient (or image) in a training file's name.

    Raises:
        CaseError: the pattern finds no patient.
    """
    _, dataset, subject = training_name(name)
    if patient_pattern is not None:
        match = re.search(patient_pattern, subject)
        if match is None or not match.group(1):
            raise CaseError(
                f"patient_pattern {patient_pattern!r} finds no patient in {subject!r}; "
                "required: a match in every file name; correct the pattern"
            )
        subject = match.group(1)
    return Subject(dataset, subject)
