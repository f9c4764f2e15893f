"""Packing: a folder of challenge training NPZ becomes shards, an index and a manifest, the same each time."""

import hashlib
import math
import multiprocessing
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from graysam.data.shard_writing import EncodedSample, ShardWriter, building, check_output, encode_sample
from graysam.imaging.canvas import resize_longest_side, to_uint8
from graysam.io.cases import Case, CaseError, SpacingOrder, read_training_case, training_name
from graysam.system.terminal import progress

SplitBy = Literal["patient", "slice"]
SPLIT_BY: dict[SplitBy, str] = {
    "patient": "dataset and patient (3D) or image (2D)",
    "slice": "slice (3D) or image (2D): a patient's slices are on both sides",
}
Item = TypeVar("Item")
Result = TypeVar("Result")


class Subject(NamedTuple):
    """What a split must not divide: a patient (or, in 2D, an image) of a dataset, whatever the modality."""

    dataset: str
    subject: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.subject}"


NOBODY = Subject("", "")


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How cases become samples.

    size is the longest side in pixels; patient_pattern is a regular expression with one group that finds the
    patient in the case part of a file's name (None: the whole part), for datasets with several volumes a
    patient. split_by says what the split keeps together: a patient, or only a slice, as the released code does,
    which then validates on patients that it was trained with.
    """

    size: int
    spacing_order: SpacingOrder
    patient_pattern: str | None
    val_fraction: float
    split_by: SplitBy
    seed: int
    samples_per_shard: int

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; required: 0 (hold nothing out) to below 1")
        if self.split_by not in SPLIT_BY:
            raise ValueError(f"split_by is {self.split_by!r}; required: {' or '.join(SPLIT_BY)}")
        if not 16 <= self.size <= 4096:
            raise ValueError(f"size is {self.size}; required: 16 to 4096 pixels (the network's is 256)")
        if self.spacing_order not in ("zyx", "xyz"):
            raise ValueError(f"spacing_order is {self.spacing_order!r}; required: zyx or xyz")
        try:
            groups = 1 if self.patient_pattern is None else re.compile(self.patient_pattern).groups
        except re.error as error:
            raise ValueError(f"patient_pattern is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(
                f"patient_pattern {self.patient_pattern!r} has {groups} groups; required: one, the patient"
            )


@dataclass(frozen=True)
class PackedCase:
    """One case's samples as bytes, or the one-line reason why there are none."""

    file: str  # relative to the input folder
    subject: Subject = NOBODY
    samples: tuple[EncodedSample, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    error: str | None = None


@dataclass(frozen=True)
class PackReport:
    """What packing did: the manifest as written, and the bad files with their reasons."""

    manifest: dict[str, Any]
    bad: dict[str, str]


# --------------------------------------------------------------------------------------------------- one case


def as_stored(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bring an image uint8 (H,W) or (H,W,3) to the longest side `size`, as one channel where its three are equal."""
    if image.ndim == 3 and (image == image[:, :, :1]).all():
        image = np.ascontiguousarray(image[:, :, 0])
    return np.asarray(resize_longest_side(image, size), dtype=np.uint8)


def encode_labelled_image(
    key: str,
    image: NDArray[np.uint8],
    label_maps: Sequence[NDArray[Any]],
    *,
    size: int,
    group: str,
    modality: str,
    meta: Mapping[str, Any],
) -> tuple[EncodedSample | None, int]:
    """Resize an image and its labels to the longest side `size` and encode them as a sample.

    image is uint8 (H,W) or (H,W,3) RGB, stored as one channel when its three are equal. label_maps are
    integers (H,W), 0 to 65535 with 0 for background; objects that overlap come in maps of their own, each
    label in one map only. Returns the sample, None when no label survives, and the number of labels that
    vanished in resizing.
    """
    resized = as_stored(image, size)
    grid = (resized.shape[1], resized.shape[0])
    masks: dict[int, NDArray[np.bool_]] = {}
    boxes_xyxy: dict[str, list[int]] = {}
    labels = 0
    for label_map in label_maps:
        labels += int(np.count_nonzero(np.unique(label_map)))
        # A whole map at once: hundreds of full-size masks of a 12-megapixel image would fill the memory.
        small = cv2.resize(label_map.astype(np.uint16), grid, interpolation=cv2.INTER_NEAREST_EXACT)
        masks |= {int(label): small == label for label in np.unique(small) if label}
        for label, place in enumerate(find_objects(label_map), start=1):
            if place is not None and label in masks:
                rows, columns = place
                boxes_xyxy[str(label)] = [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
    if not masks:
        return None, labels
    # The native boxes go along, because prediction brings boxes from native pixels to the grid, and a box taken from
    # the resized mask differs from that by up to a native pixel.
    meta = {**meta, "original_size": [int(n) for n in image.shape[:2]], "boxes_xyxy": boxes_xyxy}
    return encode_sample(key, resized, masks, group=group, modality=modality, meta=meta), labels - len(masks)


def pack_case(file: str, folder: Path, options: PackOptions) -> PackedCase:
    """Turn one case file into samples: a 2D image gives one, a volume one per slice with an object.

    A file that cannot be used gives a PackedCase with `error`, never an exception.
    """
    path = folder / file
    try:
        subject = subject_of(path.stem, options.patient_pattern)
        return _encode_case(read_training_case(path, options.spacing_order), file, subject, options)
    except (ValueError, cv2.error) as error:
        return PackedCase(file, error=" ".join(str(error).split()).removeprefix(f"{path}: "))
    except MemoryError:
        return PackedCase(file, error="does not fit into memory; use fewer workers or crop the case")


def _encode_case(case: Case, file: str, subject: Subject, options: PackOptions) -> PackedCase:
    image, gts = to_uint8(case.image.pixels), np.asarray(case.gts)
    key, group = case_key(case.image.name), case.image.modality
    slices: list[int | None] = [None]
    if case.image.is_volume:
        group = f"{case.image.modality}_{subject.dataset}"
        slices = list(range(len(gts)))
    left_out: Counter[str] = Counter()
    samples = []
    for slice_index in slices:
        here = ... if slice_index is None else slice_index
        if not gts[here].any():
            left_out["slices_without_objects" if case.image.is_volume else "images_without_objects"] += 1
            continue
        sample, vanished = encode_labelled_image(
            key if slice_index is None else f"{key}_z{slice_index:04d}",
            image[here],
            [gts[here]],
            size=options.size,
            group=group,
            modality=case.image.modality,
            meta={
                "case_id": case.image.name,
                "subject_id": subject.subject,
                "dataset": subject.dataset,
                "slice_index": slice_index,
                "spacing_mm_zyx": case.image.spacing_mm,
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
    """The dataset and patient (or image) in a training file's name; CaseError when the pattern finds none."""
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


def case_key(name: str) -> str:
    """A case's name as a shard key: all but letters, digits, - and _ becomes - (dots end keys)."""
    return re.sub(r"[^\w-]", "-", name)


# ------------------------------------------------------------------------------------------------------ split


def hold_out(groups: Mapping[str, Collection[Subject]], val_fraction: float, seed: int) -> frozenset[Subject]:
    """Choose the subjects held out for validation: one side for a subject in all of its groups.

    In each group val_fraction of the subjects are held out, rounded, and at least one; but never a group's
    last training subject, so a group of one subject is trained on and not validated. Fraction 0 holds nothing
    out. Subjects are drawn in the order of a seeded hash of their name, which groups share: one added case
    does not reshuffle the others.
    """
    if val_fraction == 0:
        return frozenset()
    groups_of: dict[Subject, set[str]] = {}
    for group, subjects in groups.items():
        for subject in subjects:
            groups_of.setdefault(subject, set()).add(group)
    order = sorted(groups_of, key=lambda s: (hashlib.sha256(f"{seed}/{s}".encode()).digest(), s))
    training = {group: len(set(subjects)) for group, subjects in groups.items()}
    missing = {group: max(1, math.floor(val_fraction * count + 0.5)) for group, count in training.items()}
    held_out = set()
    for group in sorted(groups, key=lambda g: (training[g], g)):  # the small have least choice
        for subject in order:
            if missing[group] <= 0:
                break
            mine = groups_of[subject]
            if group in mine and subject not in held_out and all(training[other] > 1 for other in mine):
                held_out.add(subject)
                for other in mine:
                    training[other] -= 1
                    missing[other] -= 1
    return frozenset(held_out)


# ---------------------------------------------------------------------------------------------------- packing


def pack_folder(
    input_dir: str | Path,
    output_dir: str | Path,
    options: PackOptions,
    *,
    workers: int = 1,
    overwrite: bool = False,
) -> PackReport:
    """Pack every `*.npz` below a folder of challenge training files into shards.

    Cases are processed in the order of their paths by `workers` processes, of which each holds one case, so
    that the bytes do not depend on their number. A bad file is left out and reported. The output appears
    complete or not at all. Raises ValueError for an input folder without NPZ files, names that give the same
    key, an output folder that is in use, or when no sample is left.
    """
    input_dir, output_dir = Path(input_dir), Path(output_dir)
    if workers < 1:
        raise ValueError(f"workers is {workers}; required: 1 or more")
    check_output(output_dir, overwrite)
    files = _list_files(input_dir)
    bad: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    subjects: list[Subject] = []  # by sample written
    units: list[Subject] = []  # what the split keeps together, by sample written
    groups: dict[str, set[Subject]] = {}
    with (
        building(output_dir, replace_existing=overwrite) as folder,
        ShardWriter(folder, options.samples_per_shard) as writer,
    ):
        job = partial(pack_case, folder=input_dir, options=options)
        for case in progress(in_order(job, files, workers), "packing", len(files)):
            if case.error is not None:
                bad[case.file] = case.error
                continue
            left_out += case.left_out
            for sample in case.samples:
                writer.write(sample)
                by_slice = options.split_by == "slice"
                unit = Subject(case.subject.dataset, sample.key) if by_slice else case.subject
                subjects.append(case.subject)
                units.append(unit)
                groups.setdefault(sample.group, set()).add(unit)
        if not subjects:
            first = next((f"; the first of {len(bad)} bad files: {name}: {why}" for name, why in bad.items()), "")
            raise ValueError(f"{input_dir}: none of {len(files)} NPZ files gave a sample{first}")
        held_out = hold_out(groups, options.val_fraction, options.seed)
        sides = {(subject, unit in held_out) for subject, unit in zip(subjects, units, strict=True)}
        manifest = writer.finish(
            ["val" if unit in held_out else "train" for unit in units],
            {
                "source": "npz",
                "split": {
                    "split_by": options.split_by,
                    "by": SPLIT_BY[options.split_by],
                    "val_fraction": options.val_fraction,
                    "seed": options.seed,
                    "val_subjects": {g: sorted(map(str, groups[g] & held_out)) for g in sorted(groups)},
                    "subjects": {g: len(groups[g]) for g in sorted(groups)},
                    "patients_on_both_sides": len(sides) - len(set(subjects)),
                    "groups_without_val": [g for g in sorted(groups) if not groups[g] & held_out],
                },
                "packing": {
                    "size": options.size,
                    "spacing_order_read": options.spacing_order,
                    "patient_pattern": options.patient_pattern,
                    "samples_per_shard": options.samples_per_shard,
                },
                "cases": {"found": len(files), "bad": bad},
                "left_out": dict(sorted((what, count) for what, count in left_out.items() if count)),
            },
        )
    return PackReport(manifest, bad)


def _list_files(folder: Path) -> list[str]:
    """Case files below a folder, relative to it, sorted; ValueError where two would get the same keys."""
    if not folder.is_dir():
        raise ValueError(
            f"input_dir {folder} is no folder; required: a folder with <Modality>_<Dataset>_<case>.npz files"
        )
    paths = [path for path in folder.rglob("*.npz") if path.is_file() and not path.name.startswith(".")]
    files = sorted(path.relative_to(folder).as_posix() for path in paths)
    if not files:
        raise ValueError(f"input_dir {folder} holds no .npz file; required: <Modality>_<Dataset>_<case>.npz")
    by_key: dict[str, str] = {}
    for file in files:
        other = by_key.setdefault(case_key(Path(file).stem), file)
        if other != file:
            raise ValueError(
                f"{folder}: {other} and {file} would get the same key; required: one name a case; rename one"
            )
    return files


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Map a function over items in processes, in the items' order, at most two items a worker under way.

    The bound keeps finished results from piling up behind a slow one. Raises ValueError when a worker is
    killed.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
    pending: deque[Any] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise ValueError(
            f"one of {workers} workers was killed, probably for want of memory; use fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
