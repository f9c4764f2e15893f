"""Sources of samples to pack: a folder of the challenge's training NPZ, or a folder of images without masks."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import cv2
import numpy as np

from graysam.data.shard_writing import EncodedSample, StoredSize, encode_image, safe_name
from graysam.data.split import Subject
from graysam.imaging.canvas import to_uint8
from graysam.io.cases import read_training_case, training_name
from graysam.io.image import SpacingOrder, read_image
from graysam.io.listing import CASE_SUFFIXES, list_folder
from graysam.system.terminal import one_line, printable

GroupBy = Literal["modality", "dataset"]
UNLABELLED = "unlabelled"  # dataset of images without masks


class PackedCase(NamedTuple):
    """The samples of one case, counts of what was left out, and the notes of reading it."""

    subject: Subject
    samples: list[EncodedSample]
    left_out: Counter[str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A folder of cases in one layout. Sources are pickled, because processes read their cases.

    Args:
        folder: searched recursively, see `list_folder`.
        size: of the stored images, as for `encode_image`.
    """

    layout: ClassVar[str]  # the manifest's `source`
    suffixes: ClassVar[tuple[str, ...]]
    required: ClassVar[str]  # how files are named

    folder: Path
    size: StoredSize

    def __post_init__(self) -> None:
        if self.size != "native" and not 16 <= self.size <= 4096:
            raise ValueError(f"size is {self.size}; required: 16 to 4096 pixels (the network's is 256), or native")

    def list_files(self) -> tuple[list[str], Mapping[str, int]]:
        """Return the case files, relative to the folder, sorted, and counts of what else lies there, by the reason.

        Raises:
            ValueError: the folder is absent or holds no case file.
        """
        if not self.folder.is_dir():
            raise ValueError(f"input_dir {self.folder} is not a directory; required: a folder with {self.required}")
        listing = list_folder(self.folder, self.suffixes, recursive=True)
        files = sorted(path.relative_to(self.folder).as_posix() for path in listing.files)
        if not files:
            raise ValueError(f"input_dir {self.folder} holds no case files; required: {self.required}")
        return files, listing.not_read

    def name_of(self, file: str) -> str:
        """Return the name of a file, of which `make_keys` makes keys: its path."""
        return file

    @abstractmethod
    def encode(self, file: str, key: str) -> PackedCase:
        """Read a file and encode its samples, whose keys begin with `key`.

        Raises:
            ValueError, OSError, cv2.error, MemoryError: the file cannot be used.
        """

    def encode_or_report(self, file: str, key: str) -> PackedCase | str:
        """Encode a file, or return the reason why it cannot be used, in one line."""
        try:
            return self.encode(file, key)
        except MemoryError:
            return "does not fit into memory; use fewer workers or crop the case"
        except (ValueError, OSError, cv2.error) as error:
            return one_line(error).removeprefix(f"{self.folder / file}: ")

    def settings(self) -> dict[str, Any]:
        """Return the settings of this layout for the manifest."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ChallengeSource(Source):
    """`<Modality>_<Dataset>_<case>.npz`; a 2D image gives one sample, a volume one for each slice with an object.

    Args:
        spacing_order: order of the stored spacing.
        patient_pattern: regular expression with one group that finds the patient in the case part of a file's name,
            for datasets with several volumes of a patient; None takes the whole part.
        exclude_datasets: data sets that are left out whole, as for a test on sources that no model was trained on.
        group_by: whether 2D images form a group for each modality, or for each data set as volumes do.
    """

    layout: ClassVar[str] = "npz"
    suffixes: ClassVar[tuple[str, ...]] = CASE_SUFFIXES
    required: ClassVar[str] = "<Modality>_<Dataset>_<case>.npz"

    spacing_order: SpacingOrder
    patient_pattern: str | None
    exclude_datasets: Sequence[str] = ()
    group_by: GroupBy = "modality"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            groups = re.compile(self.patient_pattern or "()").groups
        except re.error as error:
            raise ValueError(f"patient_pattern {self.patient_pattern!r}: {error}") from None
        if groups != 1:
            raise ValueError(f"patient_pattern {self.patient_pattern!r} has {groups} groups; required: one")

    def settings(self) -> dict[str, Any]:
        """Return the settings of this layout for the manifest."""
        return {
            "spacing_order_read": self.spacing_order,
            "patient_pattern": self.patient_pattern,
            "exclude_datasets": sorted(self.exclude_datasets),
            "group_by": self.group_by,
        }

    def list_files(self) -> tuple[list[str], Mapping[str, int]]:
        """Return the case files of the data sets that are not left out, and counts of what else lies there.

        Raises:
            ValueError: as for other sources; no file is of a data set to leave out, or all are.
        """
        files, not_read = super().list_files()
        datasets = {file: training_name(Path(file).stem).dataset for file in files}
        if unknown := set(self.exclude_datasets) - set(datasets.values()):
            found = ", ".join(sorted(set(datasets.values())))
            raise ValueError(f"exclude_datasets: no file of {', '.join(sorted(unknown))}; there are {found}")
        kept = [file for file in files if datasets[file] not in self.exclude_datasets]
        if not kept:
            raise ValueError("exclude_datasets leaves out every file")
        return kept, not_read

    def name_of(self, file: str) -> str:
        """Return the name of a file without its folders and suffix."""
        return Path(file).stem

    def encode(self, file: str, key: str) -> PackedCase:
        """Read a case and encode its slices that hold objects."""
        subject = subject_of(Path(file).stem, self.patient_pattern)
        case = read_training_case(self.folder / file, self.spacing_order)
        stored, gts = case.image, np.asarray(case.gts)
        pixels = to_uint8(stored.pixels)
        modality, dataset = printable(stored.modality), printable(subject.dataset)
        meta = {
            "case_id": stored.name,
            "subject_id": subject.subject,
            "dataset": subject.dataset,
            "spacing_mm_zyx": stored.spacing_mm,
            "group": f"{modality}_{dataset}" if stored.is_volume or self.group_by == "dataset" else modality,
            "modality": modality,
        }
        left_out: Counter[str] = Counter()
        samples = []
        for index in range(len(gts)) if stored.is_volume else [None]:
            here, name = (..., key) if index is None else (index, f"{key}_z{index:04d}")
            if not gts[here].any():
                left_out["images_without_objects" if index is None else "slices_without_objects"] += 1
                continue
            facts = {**meta, "slice_index": index}
            sample, vanished = encode_image(name, pixels[here], [gts[here]], facts, size=self.size)
            left_out["labels_vanished_in_resizing"] += vanished
            if sample is None:
                left_out["slices_emptied_by_resizing"] += 1
            else:
                samples.append(sample)
        left_out["cases_without_samples"] = int(not samples)
        return PackedCase(subject, samples, left_out, case.notes)


@dataclass(frozen=True, kw_only=True)
class ImageSource(Source):
    """PNG, JPEG, BMP or TIFF, grey or colour; the first folder below the given one is an image's group and modality.

    Other depths than 8 bits are scaled to 8 by the image's own minimum and maximum; an alpha channel is dropped.
    """

    layout: ClassVar[str] = "images"
    suffixes: ClassVar[tuple[str, ...]] = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
    required: ClassVar[str] = "images (.png, .jpg, .jpeg, .bmp, .tif, .tiff), a subfolder for each modality"

    def encode(self, file: str, key: str) -> PackedCase:
        """Read an image and encode it without labels."""
        stored = read_image(self.folder / file)
        image = to_uint8(stored.pixels)
        modality = safe_name(Path(file).parts[0]) if "/" in file else "images"  # in the folder itself
        meta: dict[str, Any] = {
            "case_id": file,
            "subject_id": file,
            "dataset": UNLABELLED,
            "slice_index": None,
            "spacing_mm_zyx": None,
            "group": f"{UNLABELLED}_{modality}",
            "modality": modality,
        }
        sample, _ = encode_image(key, image, [], meta, size=self.size)
        return PackedCase(Subject(UNLABELLED, file), [sample] if sample else [], Counter(), stored.notes)


def subject_of(name: str, patient_pattern: str | None = None) -> Subject:
    """Return the dataset and the patient (or image) in a training file's name.

    Raises:
        ValueError: the pattern finds no patient.
    """
    _, dataset, subject = training_name(name)
    if patient_pattern is not None:
        match = re.search(patient_pattern, subject)
        subject = match[1] if match else ""
        if not subject:
            raise ValueError(f"patient_pattern {patient_pattern!r} finds no patient in the name; correct the pattern")
    return Subject(dataset, subject)
