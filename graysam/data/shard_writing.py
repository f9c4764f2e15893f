"""Writing shards: samples encoded as PNG, RLE and JSON, into tar files with reproducible bytes."""

import csv
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from graysam.data.shards import (
    COLUMNS,
    FORMAT,
    INDEX_NAME,
    MANIFEST_NAME,
    SPLITS,
    VERSION,
    ShardError,
)
from graysam.system.files import sha256_of

MAX_KEY_BYTES = 80  # with a suffix well below the 100 bytes of a USTAR member name

_PNG_PARAMETERS = [cv2.IMWRITE_PNG_COMPRESSION, 6]


# --------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class EncodedSample:
    """One sample as the bytes of its three members, and what the index says of it."""

    key: str
    group: str
    modality: str
    png: bytes
    rle: bytes
    meta: bytes


def encode_sample(
    key: str,
    image: NDArray[np.uint8],
    masks: Mapping[int, NDArray[np.bool_]],
    *,
    group: str,
    modality: str,
    meta: Mapping[str, Any],
) -> EncodedSample:
    """Encode one image and the mask of each of its labels.

    image is uint8 (H,W), or (H,W,3) RGB; masks are bool (H,W) on the same grid, by label (1 or more), and may
    overlap. meta is plain JSON content; the group and the modality are added to it. Raises ShardError when
    there is no mask, a mask is empty or of another shape, or a label is below 1.
    """
    _check_key(key)
    if not masks:
        raise ShardError(f"sample {key}: no mask given; a sample needs at least one label")
    rles = {}
    for label in sorted(masks):
        mask = masks[label]
        if label < 1 or mask.shape != image.shape[:2] or not mask.any():
            raise ShardError(
                f"sample {key}, label {label}: mask of shape {mask.shape} with {int(mask.sum())} pixels; "
                f"required: label >= 1 and a non-empty mask of the image's {image.shape[:2]}"
            )
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        rles[str(label)] = {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}
    return _encoded(key, image, rles, group=group, modality=modality, meta=meta)


def encode_unlabelled(
    key: str, image: NDArray[np.uint8], *, group: str, modality: str, meta: Mapping[str, Any]
) -> EncodedSample:
    """Encode an image that has no masks, uint8 (H,W), or (H,W,3) RGB; meta as in `encode_sample`."""
    _check_key(key)
    return _encoded(key, image, {}, group=group, modality=modality, meta={**meta, "boxes_xyxy": {}})


def _check_key(key: str) -> None:
    if not 1 <= len(key.encode()) <= MAX_KEY_BYTES or set("./\\") & set(key):
        raise ShardError(f"key {key!r}; required: 1 to {MAX_KEY_BYTES} bytes without dots and slashes; rename the file")


def _encoded(
    key: str,
    image: NDArray[np.uint8],
    rles: Mapping[str, Any],
    *,
    group: str,
    modality: str,
    meta: Mapping[str, Any],
) -> EncodedSample:
    return EncodedSample(
        key=key,
        group=group,
        modality=modality,
        png=_encode_png(image),
        rle=_to_json(rles),
        meta=_to_json({**meta, "group": group, "modality": modality}),
    )


def _encode_png(image: NDArray[np.uint8]) -> bytes:
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image  # OpenCV takes colour as BGR
    ok, png = cv2.imencode(".png", stored, _PNG_PARAMETERS)
    if not ok:
        raise ShardError(f"OpenCV could not encode an image of shape {image.shape}, dtype {image.dtype} as PNG")
    return png.tobytes()


def _to_json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# ---------------------------------------------------------------------------------------------------- writing


class ShardWriter:
    """Writes samples into tar files of at most `samples_per_shard`, in order, with reproducible bytes.

    `write` refuses a key met before (ShardError). `finish` writes the index and the manifest once every
    sample's split is known; leaving the `with` block without it leaves the folder unfinished (no manifest).
    """

    def __init__(self, folder: Path, samples_per_shard: int) -> None:
        if samples_per_shard < 1:
            raise ShardError(f"samples_per_shard is {samples_per_shard}; required: 1 or more")
        self._folder = folder
        self._samples_per_shard = samples_per_shard
        self._keys: set[str] = set()
        self._rows: list[tuple[str, str, int, int, str, str]] = []  # the index's columns without the split
        self._shards: list[str] = []
        self._samples_in_shard = 0
        self._file: BinaryIO | None = None
        self._tar: Any = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_shard()

    def __len__(self) -> int:
        return len(self._rows)

    def write(self, sample: EncodedSample) -> None:
        """Append one sample."""
        if sample.key in self._keys:
            raise ShardError(f"key {sample.key} occurs twice; rename one of the two case files")
        if self._tar is None or self._samples_in_shard == self._samples_per_shard:
            self._open_next_shard()
        offset = self._tar.tarstream.offset
        self._tar.write({"__key__": sample.key, "png": sample.png, "rle.json": sample.rle, "meta.json": sample.meta})
        length = self._tar.tarstream.offset - offset
        self._keys.add(sample.key)
        self._samples_in_shard += 1
        self._rows.append((sample.key, self._shards[-1], offset, length, sample.group, sample.modality))

    def finish(self, splits: Sequence[str], manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write index and manifest: splits is one of SPLITS per sample written, in that order.

        The manifest is `manifest` (plain JSON content: how the split was made, packing parameters, ...) with
        the shards, the counts per group and the index's hash, and is returned. Raises ShardError when the
        number of splits differs.
        """
        if len(splits) != len(self._rows) or not set(splits) <= set(SPLITS):
            raise ShardError(
                f"{len(splits)} splits {sorted(set(splits))} for {len(self._rows)} samples; "
                f"required: one of {SPLITS} for each"
            )
        self._close_shard()
        table = [(*row, split) for row, split in zip(self._rows, splits, strict=True)]
        index_path = self._folder / INDEX_NAME
        with open(index_path, "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(COLUMNS)
            lines.writerows(table)
        per_shard: dict[str, Counter[str]] = {name: Counter() for name in self._shards}
        groups: dict[str, dict[str, Any]] = {}
        for _, name, _, _, group, modality, split in table:
            per_shard[name][group] += 1
            counts = groups.setdefault(group, {"modality": modality, "train": 0, "val": 0})
            counts[split] = counts.get(split, 0) + 1  # unlabelled only where there are any
        content = {
            **manifest,
            "format": FORMAT,
            "version": VERSION,
            "samples": len(table),
            "groups": groups,
            "index": {"file": INDEX_NAME, "sha256": sha256_of(index_path)},
            "shards": [
                {
                    "file": name,
                    "samples": per_shard[name].total(),
                    "bytes": (self._folder / name).stat().st_size,
                    "sha256": sha256_of(self._folder / name),
                    "groups": dict(sorted(per_shard[name].items())),
                }
                for name in self._shards
            ],
        }
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        (self._folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
        return content

    def _open_next_shard(self) -> None:
        from webdataset.writer import TarWriter  # only packing needs it; reading does not

        self._close_shard()
        name = f"shard-{len(self._shards):06d}.tar"
        self._file = open(self._folder / name, "wb")  # noqa: SIM115
        # An open file, because a name goes through webdataset's gopen, which can start programs.
        self._tar = TarWriter(self._file, encoder=False, mtime=0, user="", group="", mode=0o0644)
        self._shards.append(name)
        self._samples_in_shard = 0

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
        if self._file is not None:
            self._file.close()
            self._file = None


# ----------------------------------------------------------------------------------------------------- output


def check_output(output_dir: Path, overwrite: bool) -> None:
    """Refuse an output folder that is in use.

    Raises ValueError unless the folder is absent, empty, or holds nothing but shards that may be overwritten.
    """
    if not output_dir.exists():
        return
    if not output_dir.is_dir():
        raise ValueError(f"output_dir {output_dir} is a file; required: a new folder's name")
    names = {path.name for path in output_dir.iterdir()}
    foreign = sorted(
        name for name in names - {MANIFEST_NAME, INDEX_NAME} if not re.fullmatch(r"shard-\d{6}\.tar", name)
    )
    if foreign or (names and MANIFEST_NAME not in names):
        raise ValueError(
            f"output_dir {output_dir} holds something else than shards ({(foreign or sorted(names))[0]}); "
            "required: a new or empty folder; choose another"
        )
    if names and not overwrite:
        raise ValueError(f"output_dir {output_dir} holds shards already; add overwrite=true or choose another folder")


@contextmanager
def building(output_dir: Path, *, replace_existing: bool) -> Iterator[Path]:
    """Give a temporary folder that becomes output_dir when the block ends well, and vanishes otherwise.

    Raises FileExistsError when output_dir is there and not empty (made meanwhile by another process, perhaps)
    and replace_existing is False.
    """
    output_dir = output_dir.resolve()
    mark = uuid.uuid4().hex[:12]
    temporary, old = (output_dir.parent / f".{output_dir.name}.{mark}.{what}" for what in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if replace_existing:
            with suppress(FileNotFoundError):
                os.rename(output_dir, old)
        try:
            os.rename(temporary, output_dir)
        except OSError:
            if old.exists() and not output_dir.exists():
                os.rename(old, output_dir)
            elif output_dir.exists():
                raise FileExistsError(f"{output_dir} was made by another process meanwhile") from None
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
