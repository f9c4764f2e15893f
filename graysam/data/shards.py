"""Shards: WebDataset tar files of prepared 2D samples, their index, and reading one sample by its offset.

A sample is three tar members, `<key>.png`, `<key>.rle.json` and `<key>.meta.json`. Nothing is ever unpickled:
a member with any other suffix is an error that names it, and its content is never looked at. A shard holds
both splits; the split is a column of the index, so that it can be decided when all samples are known and
another split leaves the shards' bytes as they are.
"""

import csv
import io
import json
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from graysam.system.files import sha256_of
from graysam.system.terminal import one_line

FORMAT = "graysam-shards"
VERSION = 2
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.csv"
SPLITS = ("train", "val", "unlabelled")  # the last: images without masks, for distillation
# Of the index; offset and length are bytes, from a sample's first tar header to the next sample's.
COLUMNS = ("key", "shard", "offset", "length", "group", "modality", "split")


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

    image is uint8 (H,W), or (H,W,3) RGB, longest side 256 and unpadded; meta holds case_id, subject_id
    (patient or image), modality, dataset, group, slice_index (None in 2D), original_size [height, width] in
    pixels, boxes_xyxy (each label's tight box in native pixels, inclusive) and spacing_mm_zyx (None in 2D).
    Masks are decoded when asked for: training draws one label of perhaps a hundred.
    """

    key: str
    image: NDArray[np.uint8]
    meta: dict[str, Any]
    rles: dict[int, dict[str, Any]]

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels present, ascending; empty only for an image of the split `unlabelled`."""
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

    It is picklable and holds no open file. The rows of several folders follow each other in the folders' order.

    Attributes:
        folders: the folders given.
        keys, groups, modalities, splits: string arrays (N,), one entry per sample in the order of packing.

    Raises:
        ShardError: a manifest, an index or a shard is missing, or a copy is incomplete or was changed.
    """

    def __init__(self, *folders: str | Path) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        rows = [(number, *row) for number, folder in enumerate(self.folders) for row in _read_index(folder)]
        columns: list[Any] = [np.array(column) for column in zip(*rows, strict=True)]
        self._folder_numbers, self.keys, self._shards, offsets, lengths = columns[:5]
        self._offsets, self._lengths = offsets.astype(np.int64), lengths.astype(np.int64)
        self.groups, self.modalities, self.splits = columns[5:]
        if len(known := np.unique(self.keys)) < len(self.keys):
            raise ShardError(f"{len(self.keys) - len(known)} keys occur twice in {', '.join(map(str, folders))}")

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
        key, path = str(self.keys[row]), self.folders[self._folder_numbers[row]] / str(self._shards[row])
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
        return Sample(key=key, image=np.asarray(image, np.uint8), meta=meta, rles=dict(sorted(rles.items())))


def _read_index(folder: Path) -> list[list[str]]:
    """Return the index's rows by COLUMNS; the files of the manifest are there with the sizes packed."""
    manifest = load_manifest(folder)
    path = folder / INDEX_NAME
    try:
        sizes = {Path(shard["file"]).name: shard["bytes"] for shard in manifest["shards"]}
        for name, size_bytes in sizes.items():
            got = f"{(folder / name).stat().st_size} bytes" if (folder / name).is_file() else "no such file"
            if got != f"{size_bytes} bytes":
                raise ShardError(f"{folder / name}: {got}; required: {size_bytes} bytes; copy or pack it again")
        if not path.is_file() or sha256_of(path) != manifest["index"]["sha256"]:
            raise ShardError(f"{path} is absent or was changed after packing (sha256); pack again")
        with open(path, newline="", encoding="utf-8") as lines:
            rows = list(csv.reader(lines))[1:]
        if any(row[1] not in sizes or row[6] not in SPLITS for row in rows):
            raise ShardError(f"{path} names a shard or a split that is unknown; pack again")
    except (OSError, LookupError, TypeError) as error:
        raise ShardError(f"{folder / MANIFEST_NAME} or its index is damaged ({error!r}); pack again") from None
    return rows


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
