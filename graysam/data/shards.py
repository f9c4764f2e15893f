"""Shards: WebDataset tar files of prepared 2D samples, their index, and reading one sample by its offset.

A sample is three tar members, `<key>.png`, `<key>.rle.json` and `<key>.meta.json`. Nothing is ever unpickled:
a member with any other suffix is an error that names it, and its content is never looked at. A shard holds
both splits; the split is a column of the index, so that it can be decided when all samples are known and
another split leaves the shards' bytes as they are.
"""

import csv
import hashlib
import io
import json
import tarfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from graysam.imaging.canvas import content_hash
from graysam.io.image import UNKNOWN
from graysam.system.environment import user_cache_dir
from graysam.system.files import sha256_of
from graysam.system.terminal import one_line

FORMAT = "graysam-shards"
VERSION = 2
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.csv"
SPLITS = ("train", "val", "unlabelled")  # the last: images without masks, for distillation
# Of the index; offset and length are bytes, from a sample's first tar header to the next sample's; subject is
# `<dataset>/<subject>`, content the `content_hash` of the image at 256 px. Older shards lack the last two.
COLUMNS = ("key", "shard", "offset", "length", "group", "modality", "split", "subject", "content")


class ShardError(ValueError):
    """Shards that are absent, damaged, or hold what they must not hold."""


def load_manifest(folder: str | Path) -> dict[str, Any]:
    """Read `manifest.json` of a folder of shards.

    Raises:
        ShardError: there is none, or it is damaged or of another version.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        got = manifest["format"], manifest["version"]
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(
            f"{folder} holds no shards (no {MANIFEST_NAME}); make them with `python -m graysam.pack "
            f"input_dir=FOLDER_OF_NPZ output_dir={folder}`, or train with data=demo"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ShardError(f"{path}: damaged JSON ({error}); pack again") from None
    if got != (FORMAT, VERSION):
        raise ShardError(f"{path}: format and version are {got}; required: {(FORMAT, VERSION)}; pack again")
    return manifest


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample as packed.

    image is uint8 (H,W), or (H,W,3) RGB, unpadded, of the size that it was packed with; meta holds case_id, subject_id
    (patient or image), modality, dataset, group, slice_index (None in 2D), original_size [height, width] in
    pixels, boxes_xyxy (each label's tight box in native pixels, inclusive), spacing_mm_zyx (None in 2D), and, where
    there are any, vanishing_labels (see `encode_image`). Masks are decoded when asked for: training draws one label of
    perhaps a hundred.
    """

    key: str
    image: NDArray[np.uint8]
    meta: dict[str, Any]
    rles: dict[int, dict[str, Any]]

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels that the full view shows, ascending; empty only for an image of the split `unlabelled`."""
        return tuple(label for label in self.rles if label not in self.meta.get("vanishing_labels", ()))

    @property
    def stored_labels(self) -> tuple[int, ...]:
        """All labels, ascending, also those that only crops can show."""
        return tuple(self.rles)

    def mask(self, label: int) -> NDArray[np.bool_]:
        """Decode one label's mask, bool (H,W); ShardError for a damaged RLE."""
        rle = self.rles[label]
        try:
            counts = rle["counts"].encode("ascii")
            with warnings.catch_warnings():  # pycocotools 2.0.11 does not know NumPy 2's copy keyword
                warnings.simplefilter("ignore", DeprecationWarning)
                mask = coco_mask.decode({"size": rle["size"], "counts": counts})
            # Where the runs are too short, pycocotools leaves memory uninitialised: encode again and compare.
            if coco_mask.encode(mask)["counts"] != counts:
                raise ValueError("the runs do not cover the image")
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise ShardError(f"sample {self.key}, label {label}: damaged RLE ({error}); pack again") from None
        return np.ascontiguousarray(mask, dtype=np.bool_)


class ShardReader:
    """Read samples by their row in the index of one or several folders of shards.

    It is picklable and holds no open file. The rows of several folders follow each other in the folders' order. What
    one folder holds out, no other may train on: neither the image (by its content) nor another one of its subject.

    Args:
        folders: of shards.
        drop_leaked: whether training samples that another folder holds out are left out instead of refused.

    Attributes:
        folders: the folders given.
        keys, groups, modalities, splits: string arrays (N,), one entry per sample in the order of packing; a key that
            occurs in several folders is preceded by its folder, so that keys are unique.
        dropped: number of training samples left out because another folder holds them out.

    Raises:
        ShardError: a manifest, an index or a shard is missing, or a copy is incomplete or was changed; a folder is
            given twice, or trains on what another one holds out.
    """

    def __init__(self, *folders: str | Path, drop_leaked: bool = False) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        if len({folder.resolve() for folder in self.folders}) < len(self.folders):
            raise ShardError(f"one folder of shards is given twice: {', '.join(map(str, folders))}; give each once")
        rows: list[Any] = [(number, *row) for number, folder in enumerate(self.folders) for row in _read_index(folder)]
        self._set_rows(rows)
        subjects, contents = [row[8] for row in rows], [row[9] for row in rows]
        leaks = self._find_leaks(subjects, contents) if len(folders) > 1 else {}
        self.dropped = len(leaks)
        if leaks and not drop_leaked:
            row, holder = next(iter(leaks.items()))
            keys = ", ".join(str(self._stored_keys[row]) for row in list(leaks)[:3])
            raise ShardError(
                f"{self.folders[rows[row][0]]} trains on what {self.folders[holder]} holds out: {len(leaks)} samples "
                f"of {len({subjects[row] for row in leaks})} subjects, first {keys}; pack the cases together, omit one "
                "folder, or leave these training samples out with data.drop_leaked=true"
            )
        if leaks:
            self._set_rows([row for place, row in enumerate(rows) if place not in leaks])

    def _set_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Set the arrays to rows of the number of a folder and its index's columns."""
        columns: list[Any] = [np.array(column) for column in list(zip(*rows, strict=True))[:8]]
        self._folder_numbers, self._stored_keys, self._shards, offsets, lengths = columns[:5]
        self._offsets, self._lengths = offsets.astype(np.int64), lengths.astype(np.int64)
        self.groups, self.modalities, self.splits = columns[5:]
        counts = Counter(self._stored_keys.tolist())
        folder_and_key = zip(self._folder_numbers, self._stored_keys.tolist(), strict=True)
        self.keys = np.array([f"{self.folders[n]}/{key}" if counts[key] > 1 else key for n, key in folder_and_key])

    def _find_leaks(self, subjects: list[str], contents: list[str]) -> dict[int, int]:
        """Return the training rows that another folder holds out, each with the number of that folder.

        Args:
            subjects, contents: the index's columns; "" in older shards, where they are filled in from the samples.
        """
        for row in (row for row, content in enumerate(contents) if not content):
            sample = self.read(row)
            subjects[row] = f"{sample.meta['dataset']}/{sample.meta['subject_id']}"
            contents[row] = content_hash(sample.image)
        numbers, splits = self._folder_numbers.tolist(), self.splits.tolist()
        holders: dict[str, set[int]] = defaultdict(set)  # by image and by subject: the folders that hold it out
        for number, split, *identities in zip(numbers, splits, subjects, contents, strict=True):
            for identity in identities if split == "val" else ():
                holders[identity].add(number)
        leaks: dict[int, int] = {}
        subject_leaks: dict[tuple[int, str], int] = {}  # their folders and subjects, whose other images leak as well
        for row, (number, split, subject, content) in enumerate(zip(numbers, splits, subjects, contents, strict=True)):
            found = set(holders.get(content, ()))
            if not subject.startswith(f"{UNKNOWN}/"):  # of unknown data sets, equal names need not be one patient
                found |= holders.get(subject, set())
            if split != "val" and (others := found - {number}):
                leaks[row] = subject_leaks[number, subject] = min(others)
        for row, (number, split, subject) in enumerate(zip(numbers, splits, subjects, strict=True)):
            if split != "val" and (number, subject) in subject_leaks:
                leaks[row] = subject_leaks[number, subject]
        return dict(sorted(leaks.items()))

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, split: str | None = None, group: str | None = None) -> NDArray[np.int64]:
        """Return the row numbers of a split and a group, int64, ascending; None means any."""
        in_split = np.full(len(self), True) if split is None else self.splits == split
        return np.flatnonzero(in_split if group is None else in_split & (self.groups == group))

    def read(self, row: int) -> Sample:
        """Read one sample.

        Raises:
            ShardError: its bytes are damaged, or hold another member than its three.
        """
        key, path = str(self._stored_keys[row]), self.folders[self._folder_numbers[row]] / str(self._shards[row])
        where = f"{path}, sample {key}"
        try:
            # Opened per read: a few microseconds, and nothing to share between processes.
            with open(path, "rb") as file:
                file.seek(int(self._offsets[row]))
                members = _members(file.read(int(self._lengths[row])), key, where)
            image = cv2.imdecode(np.frombuffer(members["png"], np.uint8), cv2.IMREAD_UNCHANGED)
            rles = {int(label): rle for label, rle in json.loads(members["rle.json"]).items()}
            meta = json.loads(members["meta.json"])
            if image is None or image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)):
                raise ValueError("the PNG is damaged, or not 8-bit grey or RGB")
            if bool(rles) == (self.splits[row] == "unlabelled") or meta["boxes_xyxy"].keys() != set(map(str, rles)):
                raise ValueError("masks and boxes do not belong together")
            if any(tuple(rle["size"]) != image.shape[:2] for rle in rles.values()):
                raise ValueError("a mask has another size")
        except ShardError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, tarfile.TarError, cv2.error) as error:
            raise ShardError(f"{where}: not readable ({one_line(error)}); copy or pack it again") from None
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 else image
        return Sample(
            key=str(self.keys[row]), image=np.asarray(image, np.uint8), meta=meta, rles=dict(sorted(rles.items()))
        )


def _read_index(folder: Path) -> list[list[str]]:
    """Return the index's rows by COLUMNS, "" for what older shards lack; every file is as it was packed."""
    manifest = load_manifest(folder)
    path = folder / INDEX_NAME
    try:
        shards = {Path(shard["file"]).name: (shard["bytes"], shard["sha256"]) for shard in manifest["shards"]}
        for name, (size_bytes, sha256) in shards.items():
            got = f"{(folder / name).stat().st_size} bytes" if (folder / name).is_file() else "no such file"
            if got != f"{size_bytes} bytes":
                raise ShardError(f"{folder / name}: {got}; required: {size_bytes} bytes; copy or pack it again")
            if not _is_intact(folder / name, sha256):
                raise ShardError(
                    f"{folder / name} was damaged or changed after packing (sha256); copy or pack it again"
                )
        if not path.is_file() or sha256_of(path) != manifest["index"]["sha256"]:
            raise ShardError(f"{path} is absent or was changed after packing (sha256); pack again")
        with open(path, newline="", encoding="utf-8") as lines:
            rows = [row + [""] * (len(COLUMNS) - len(row)) for row in csv.reader(lines)][1:]
        if any(row[1] not in shards or row[6] not in SPLITS for row in rows):
            raise ShardError(f"{path} names a shard or a split that is unknown; pack again")
    except (OSError, LookupError, TypeError) as error:
        raise ShardError(f"{folder / MANIFEST_NAME} or its index is damaged ({error!r}); pack again") from None
    return rows


def _is_intact(shard: Path, sha256: str) -> bool:
    """Compare a file's SHA-256, once: the user's cache remembers its place, size and times."""
    facts = shard.stat()
    state = (str(shard.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, sha256)
    mark = Path("verified_shards", hashlib.sha256(repr(state).encode()).hexdigest())
    with suppress(OSError, ValueError):  # no cache: compared each time
        if (user_cache_dir() / mark).exists():
            return True
    if sha256_of(shard) != sha256:
        return False
    with suppress(OSError, ValueError):
        (user_cache_dir() / mark).parent.mkdir(parents=True, exist_ok=True)
        (user_cache_dir() / mark).touch()
    return True


def _members(chunk: bytes, key: str, where: str) -> dict[str, bytes]:
    """Return the three members of one sample by suffix; every name is checked before any content is read."""
    with tarfile.open(fileobj=io.BytesIO(chunk), mode="r:") as tar:
        infos = tar.getmembers()
    names = {f"{key}.{suffix}": suffix for suffix in ("meta.json", "png", "rle.json")}
    for place, info in enumerate(infos):
        if info.name not in names or not info.isreg() or info.name in [other.name for other in infos[:place]]:
            raise ShardError(
                f"{where}: unexpected member {info.name!r}; allowed: {', '.join(names)}, once each; "
                "it was not opened; do not use these shards unless you know who made them"
            )
    return {names[info.name]: chunk[info.offset_data : info.offset_data + info.size] for info in infos}
