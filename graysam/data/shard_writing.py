"""Write shards: samples encoded as PNG, RLE and JSON, tar files with reproducible bytes, index and manifest."""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.ndimage import find_objects

from graysam.data.shards import COLUMNS, FORMAT, INDEX_NAME, MANIFEST_NAME, VERSION, ShardError
from graysam.imaging.canvas import content_hash, resize_labels, resize_longest_side
from graysam.system.files import sha256_of
from graysam.system.outputs import check_output_folder
from graysam.system.terminal import check_at_least, printable

GRID_SIZE = 256  # px, the network's
StoredSize = int | Literal["native"]  # longest side of stored images, see `encode_image`
MAX_KEY_BYTES = 80  # with a suffix well below the 100 bytes of a USTAR member name
_SLICE_BYTES = len("_z0000")


@dataclass(frozen=True)
class EncodedSample:
    """The members of one sample, and for the index its group, modality, subject and the hash of its image."""

    key: str
    group: str
    modality: str
    subject: str
    content: str
    png: bytes
    rle: bytes
    meta: bytes


def safe_name(name: str) -> str:
    """Return a name in which all but letters, digits, - and _ is -."""
    return re.sub(r"[^\w-]", "-", name)


def make_keys(names: Mapping[str, str]) -> dict[str, str]:
    """Return the beginning of the keys of each file's samples: its name made safe.

    Where that is too long, or several files have the same, it is shortened and ends with a hash of the name (of the
    path, where names are equal), which is the same in each packing.

    Args:
        names: path -> name.
    """
    safe = {file: safe_name(name) for file, name in names.items()}
    counts, name_counts = Counter(safe.values()), Counter(names.values())
    longest = MAX_KEY_BYTES - _SLICE_BYTES
    for file, name in names.items():
        if counts[safe[file]] > 1 or len(safe[file].encode()) > longest:
            identity = name if name_counts[name] == 1 else file
            mark = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:12]
            shortened = safe[file].encode()[: longest - len(mark) - 1].decode(errors="ignore")
            safe[file] = f"{shortened}-{mark}"
    return safe


def encode_image(
    key: str, image: NDArray[np.uint8], label_maps: Sequence[NDArray[Any]], meta: Mapping[str, Any], *, size: StoredSize
) -> tuple[EncodedSample | None, int]:
    """Resize an image and its labels and encode them as a sample.

    A label that has no pixel left at 256 px, the size of a full view, but has some in the stored image is named in the
    meta data as one of `vanishing_labels`: only crops can show it.

    Args:
        key: the sample's name, without dots and slashes.
        image: uint8 (H,W), or (H,W,3) RGB, stored as one channel where its three are equal.
        label_maps: integers (H,W), 0 (background) to 65535; each label occurs in one map, and objects that overlap
            are in different maps; none for the split `unlabelled`.
        meta: plain JSON content, to which the original size and the boxes are added; `group` is what the balanced
            sampler counts, `modality` e.g. `CT`, `dataset` and `subject_id` whose image it is.
        size: longest side of the stored image in pixels. Up to 256, every image is resized to it; above, only larger
            images are, since a full view is enlarged from the original when it is read. `native` resizes none.

    Returns:
        The sample, None when no label survives at 256 px, and the number of labels that vanished in resizing.

    Raises:
        ShardError: an unsuitable key.
    """
    if not 1 <= len(key.encode()) <= MAX_KEY_BYTES or set("./\\") & set(key):
        raise ShardError(f"key {key!r}; required: 1 to {MAX_KEY_BYTES} bytes without dots and slashes; rename the file")
    if image.ndim == 3 and (image == image[:, :, :1]).all():
        image = np.ascontiguousarray(image[:, :, 0])
    side = max(image.shape[:2])
    side = side if size == "native" else size if size <= GRID_SIZE else min(size, side)
    stored = resize_longest_side(image, side)
    rles: dict[str, Any] = {}
    boxes_xyxy: dict[str, list[int]] = {}
    labels, vanishing = 0, []
    for label_map in label_maps:
        labels += int(np.count_nonzero(np.unique(label_map)))
        # Resized as a whole map: hundreds of full-size masks of a 12-megapixel image would fill the memory.
        small = resize_labels(label_map, side)
        on_grid = small if side <= GRID_SIZE else resize_labels(small, GRID_SIZE)
        places = find_objects(label_map)
        present = np.unique(small[small > 0]).tolist()
        vanishing += sorted(set(present) - set(np.unique(on_grid).tolist()))
        for label in present:
            rle = coco_mask.encode(np.asfortranarray(small == label, dtype=np.uint8))
            rles[str(label)] = {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}
            # Prediction takes boxes from native pixels to the grid; a box of the resized mask may differ by a pixel.
            rows, columns = places[label - 1]
            boxes_xyxy[str(label)] = [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
    if label_maps and len(rles) == len(vanishing):
        return None, labels
    bgr = cv2.cvtColor(stored, cv2.COLOR_RGB2BGR) if stored.ndim == 3 else stored
    _, png = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    facts = {**meta, "original_size": list(image.shape[:2]), "boxes_xyxy": boxes_xyxy}
    content = _to_json(facts | ({"vanishing_labels": sorted(vanishing)} if vanishing else {}))
    subject = printable(f"{meta['dataset']}/{meta['subject_id']}")
    identity = (key, meta["group"], meta["modality"], subject, content_hash(resize_longest_side(image, GRID_SIZE)))
    return EncodedSample(*identity, png.tobytes(), _to_json(rles), content), labels - len(rles)


def _to_json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class ShardWriter:
    """Write samples in order into tar files of at most `samples_per_shard` each.

    Use it as a context manager, and call `finish` when all samples are written; without it the folder has no
    manifest and is not read as shards.
    """

    def __init__(self, folder: Path, samples_per_shard: int) -> None:
        check_at_least(1, "samples_per_shard", samples_per_shard)
        self._folder, self._samples_per_shard = folder, samples_per_shard
        self._rows: dict[str, tuple[Any, ...]] = {}  # by key: the index's columns after it, without the split
        self._open = ExitStack()
        self._tar: Any = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def write(self, sample: EncodedSample) -> None:
        """Append one sample; raise ShardError for a key that was written before."""
        if sample.key in self._rows:
            raise ShardError(f"key {sample.key} occurs twice; rename one of the two case files")
        number, place = divmod(len(self._rows), self._samples_per_shard)
        name = f"shard-{number:06d}.tar"
        if place == 0:
            from webdataset.writer import TarWriter  # only packing needs it; reading does not

            self._open.close()
            # An open file, because webdataset opens names with gopen, which can start programs.
            file = self._open.enter_context((self._folder / name).open("wb"))
            self._tar = TarWriter(file, encoder=False, mtime=0, user="", group="", mode=0o0644)
            self._open.callback(self._tar.close)
        offset = self._tar.tarstream.offset
        self._tar.write({"__key__": sample.key, "png": sample.png, "rle.json": sample.rle, "meta.json": sample.meta})
        length = self._tar.tarstream.offset - offset
        described = sample.group, sample.modality, sample.subject, sample.content
        self._rows[sample.key] = (name, offset, length, *described)

    def finish(self, splits: Sequence[str], manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write the index and the manifest.

        Args:
            splits: one of `SPLITS` for each sample, in the order of writing.
            manifest: plain JSON content; the shards, the counts per group and the index's hash are added.

        Returns:
            The manifest as written.
        """
        self._open.close()
        index = self._folder / INDEX_NAME
        groups: dict[str, dict[str, Any]] = {}
        samples: dict[str, Counter[str]] = {}  # of each shard, by group
        with open(index, "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(COLUMNS)
            for (key, row), split in zip(self._rows.items(), splits, strict=True):
                lines.writerow((key, *row[:5], split, *row[5:]))
                samples.setdefault(row[0], Counter())[row[3]] += 1
                counts = groups.setdefault(row[3], {"modality": row[4], "train": 0, "val": 0})
                counts[split] = counts.get(split, 0) + 1  # `unlabelled` appears only where there are such images
        shards = []
        for name, by_group in samples.items():
            file_facts = {"bytes": (self._folder / name).stat().st_size, "sha256": sha256_of(self._folder / name)}
            shards.append({"file": name, "samples": by_group.total(), **file_facts, "groups": dict(by_group)})
        content = {
            **manifest,
            "format": FORMAT,
            "version": VERSION,
            "samples": len(self._rows),
            "groups": groups,
            "index": {"file": INDEX_NAME, "sha256": sha256_of(index)},
            "shards": shards,
        }
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        # A name that is not UTF-8 becomes JSON's own escapes, from which the same name is read.
        (self._folder / MANIFEST_NAME).write_text(printable(text) + "\n", encoding="utf-8")
        return content


def check_output(output_dir: Path, overwrite: bool, input_dir: Path | None = None) -> None:
    """Refuse an output folder that is in use.

    Raises:
        ValueError: the folder lies in the input folder, holds something else than shards, or shards that must not be
            overwritten, or cannot be written.
    """
    if input_dir is not None and input_dir.exists():
        place = Path(os.path.realpath(output_dir))
        if any(folder.exists() and folder.samefile(input_dir) for folder in (place, *place.parents)):
            raise ValueError(f"output_dir {output_dir} lies in input_dir {input_dir}; choose a folder outside of it")
    names = rf"shard-\d{{6}}\.tar|{INDEX_NAME}|{MANIFEST_NAME}"
    if check_output_folder(output_dir, names, MANIFEST_NAME, "shards", "output_dir") and not overwrite:
        raise ValueError(f"output_dir {output_dir} holds shards already; add overwrite=true or choose another folder")
