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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from graysam.system.files import sha256_of

FORMAT = "graysam-shards"
VERSION = 2
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.csv"
SPLITS = ("train", "val", "unlabelled")  # the last: images without masks, for distillation
SUFFIXES = ("meta.json", "png", "rle.json")
COLUMNS = ("key", "shard", "offset", "length", "group", "modality", "split")


class ShardError(ValueError):
    """Shards that are absent, damaged, or hold what they must not hold."""


def load_manifest(folder: str | Path) -> dict[str, Any]:
    """Read `manifest.json` of a folder of shards.

    Raises ShardError, which says what to do, when there is none or it is of another version.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ShardError(
            f"{folder} holds no shards (no {MANIFEST_NAME}); make them with `python -m graysam.pack "
            f"input_dir=FOLDER_OF_NPZ output_dir={folder}`, or train with data=demo"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ShardError(f"{path}: not readable as JSON ({error}); pack again") from None
    got = (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else (None, None)
    if got != (FORMAT, VERSION):
        raise ShardError(f"{path}: format and version are {got}; required: {(FORMAT, VERSION)}; pack again")
    return dict(manifest)


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """What lies where in a folder of shards: one row per sample, in the order of packing.

    keys, shards (file name), groups, modalities and splits (of SPLITS) are string arrays (N,); offsets
    and lengths are int64 (N,), bytes from a sample's first tar header to the next sample's. Picklable.
    """

    keys: NDArray[np.str_]
    shards: NDArray[np.str_]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    groups: NDArray[np.str_]
    modalities: NDArray[np.str_]
    splits: NDArray[np.str_]

    @classmethod
    def load(cls, folder: str | Path) -> "ShardIndex":
        """Read the index of a folder of shards and hold it against the manifest and the shards' sizes.

        Raises ShardError when the manifest, the index or a shard is missing, or one does not fit the others.
        """
        folder = Path(folder)
        manifest = load_manifest(folder)
        path = folder / INDEX_NAME
        try:
            sizes = {str(shard["file"]): int(shard["bytes"]) for shard in manifest["shards"]}
            if sha256_of(path) != manifest["index"]["sha256"]:
                raise ShardError(f"{path} was changed after packing (its sha256 is not the manifest's); pack again")
            with open(path, newline="", encoding="utf-8") as file:
                lines = csv.reader(file)
                header = tuple(next(lines, ()))
                columns = list(zip(*lines, strict=True)) or [()] * len(COLUMNS)
        except (KeyError, TypeError) as error:
            raise ShardError(f"{folder / MANIFEST_NAME}: entry missing or malformed ({error}); pack again") from None
        except OSError as error:
            raise ShardError(f"{path}: not readable ({error.strerror}); pack again") from None
        if header != COLUMNS:
            raise ShardError(f"{path}: columns are {header}; required: {COLUMNS}; pack again")
        for name, size in sizes.items():
            shard = folder / name
            if Path(name).name != name or not shard.is_file() or shard.stat().st_size != size:
                got = f"{shard.stat().st_size} bytes" if shard.is_file() else "no such file"
                raise ShardError(f"{shard}: {got}; required by the manifest: {size} bytes; copy or pack it again")
        arrays: list[Any] = [
            np.array(column, dtype=np.int64 if name in ("offset", "length") else np.str_)
            for name, column in zip(COLUMNS, columns, strict=True)
        ]
        index = cls(*arrays)
        if not set(index.shards) <= set(sizes) or not set(index.splits) <= set(SPLITS):
            raise ShardError(f"{path} names a shard or a split that the manifest does not know; pack again")
        return index

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups, sorted."""
        return tuple(str(group) for group in np.unique(self.groups))

    def rows(self, split: str | None = None, group: str | None = None) -> NDArray[np.int64]:
        """Row numbers of a split and a group, int64, ascending.

        None means any; an unknown name gives an empty array.
        """
        chosen = np.ones(len(self), dtype=bool)
        if split is not None:
            chosen &= self.splits == split
        if group is not None:
            chosen &= self.groups == group
        return np.flatnonzero(chosen)


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
        """Decode one label's mask, bool (H,W); KeyError for an absent label, ShardError for a damaged RLE."""
        rle = self.rles[label]
        try:
            counts = rle["counts"].encode("ascii")
            with warnings.catch_warnings():  # pycocotools 2.0.11 does not know NumPy 2's copy keyword
                warnings.simplefilter("ignore", DeprecationWarning)
                mask = coco_mask.decode({"size": rle["size"], "counts": counts})
            # Where the runs are too short, pycocotools leaves memory uninitialised: encode again and compare.
            if coco_mask.encode(mask)["counts"] != counts:
                raise ValueError("the runs do not cover the image")
        except (ValueError, TypeError, AttributeError) as error:
            raise ShardError(f"sample {self.key}, label {label}: damaged RLE ({error}); pack again") from None
        return np.ascontiguousarray(mask, dtype=np.bool_)

    @property
    def masks(self) -> dict[int, NDArray[np.bool_]]:
        """Every label's mask, decoded."""
        return {label: self.mask(label) for label in self.labels}


class ShardReader:
    """Read samples by their row in the index of one or several folders of shards.

    It is picklable and holds no open file. The rows of several folders follow each other in the folders' order.
    """

    def __init__(self, *folders: str | Path) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        indices = [ShardIndex.load(folder) for folder in self.folders]
        self._starts = np.cumsum([0, *map(len, indices)])[:-1]
        columns: list[Any] = [
            np.concatenate([getattr(index, field.name) for index in indices]) for field in fields(ShardIndex)
        ]
        self.index = ShardIndex(*columns)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, row: int) -> Sample:
        """Read one sample.

        Raises:
            ShardError: its bytes are damaged, or hold a member that is not in SUFFIXES.
        """
        folder = self.folders[int(np.searchsorted(self._starts, row, side="right")) - 1]
        key, name = str(self.index.keys[row]), str(self.index.shards[row])
        where = f"{folder / name}, sample {key}"
        try:
            # Opened per read: a few microseconds, and nothing to share between processes.
            with open(folder / name, "rb") as file:
                file.seek(int(self.index.offsets[row]))
                chunk = file.read(int(self.index.lengths[row]))
        except OSError as error:
            raise ShardError(f"{where}: not readable ({error.strerror}); copy or pack it again") from None
        members = _members(chunk, key, where)
        image = _decode_png(members["png"], where)
        try:
            rles = {int(label): rle for label, rle in json.loads(members["rle.json"]).items()}
            meta = dict(json.loads(members["meta.json"]))
            sizes_fit = all(tuple(rle["size"]) == image.shape[:2] and "counts" in rle for rle in rles.values())
            boxes_fit = all(len(meta["boxes_xyxy"][str(label)]) == 4 for label in rles)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ShardError(f"{where}: damaged JSON ({error}); pack again") from None
        if bool(rles) == (self.index.splits[row] == "unlabelled") or not sizes_fit or not boxes_fit:
            raise ShardError(f"{where}: masks or boxes are missing or of another size than the image; pack again")
        return Sample(key=key, image=image, meta=meta, rles=dict(sorted(rles.items())))


def _members(chunk: bytes, key: str, where: str) -> dict[str, bytes]:
    """The three members of one sample's bytes by suffix; every name is checked before any content is read."""
    try:
        with tarfile.open(fileobj=io.BytesIO(chunk), mode="r:") as tar:
            infos = {}
            for info in tar:
                stem, _, suffix = info.name.partition(".")
                if stem != key or suffix not in SUFFIXES or not info.isreg() or suffix in infos:
                    raise ShardError(
                        f"{where}: unexpected member {info.name!r}; allowed: {key}.{{{','.join(SUFFIXES)}}}, "
                        "once each; it was not opened; do not use these shards unless you know who made them"
                    )
                infos[suffix] = info
            missing = [suffix for suffix in SUFFIXES if suffix not in infos]
            if missing:
                raise ShardError(f"{where}: member {key}.{missing[0]} is missing; pack again")
            return {suffix: chunk[info.offset_data : info.offset_data + info.size] for suffix, info in infos.items()}
    except tarfile.TarError as error:
        raise ShardError(f"{where}: damaged tar ({error}); copy or pack it again") from None


def _decode_png(png: bytes, where: str) -> NDArray[np.uint8]:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if image is None or image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ShardError(f"{where}: the PNG is damaged or not 8-bit grey or RGB; pack again")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if image.ndim == 3 else image, dtype=np.uint8)
