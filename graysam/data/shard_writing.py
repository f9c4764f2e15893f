"""Write shards: tar files with reproducible bytes, their index and their manifest."""

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from graysam.data.encoding import EncodedSample
from graysam.data.shards import COLUMNS, FORMAT, INDEX_NAME, MANIFEST_NAME, SPLITS, VERSION, ShardError
from graysam.system.files import sha256_of


class ShardWriter:
    """Write samples in order into tar files of at most `samples_per_shard` each.

    Use it as a context manager, and call `finish` when all samples are written; without it the folder has no
    manifest and is not read as shards.
    """

    def __init__(self, folder: Path, samples_per_shard: int) -> None:
        if samples_per_shard < 1:
            raise ShardError(f"samples_per_shard is {samples_per_shard}; required: 1 or more")
        self._folder = folder
        self._samples_per_shard = samples_per_shard
        self._rows: dict[str, tuple[str, int, int, str, str]] = {}  # by key: the index's columns without the split
        self._shards: list[str] = []
        self._open = ExitStack()
        self._tar: Any = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __len__(self) -> int:
        return len(self._rows)

    def write(self, sample: EncodedSample) -> None:
        """Append one sample.

        Raises:
            ShardError: its key occurred before.
        """
        if sample.key in self._rows:
            raise ShardError(f"key {sample.key} occurs twice; rename one of the two case files")
        if len(self._rows) % self._samples_per_shard == 0:
            self._open_next_shard()
        offset = self._tar.tarstream.offset
        self._tar.write({"__key__": sample.key, "png": sample.png, "rle.json": sample.rle, "meta.json": sample.meta})
        length = self._tar.tarstream.offset - offset
        self._rows[sample.key] = (self._shards[-1], offset, length, sample.group, sample.modality)

    def finish(self, splits: Sequence[str], manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write the index and the manifest.

        Args:
            splits: one of SPLITS for each sample, in the order of writing.
            manifest: plain JSON content; the shards, the counts per group and the index's hash are added.

        Returns:
            The manifest as written.

        Raises:
            ShardError: the number of splits differs from that of the samples, or a split is unknown.
        """
        if len(splits) != len(self._rows) or not set(splits) <= set(SPLITS):
            raise ShardError(
                f"{len(splits)} splits {sorted(set(splits))} for {len(self._rows)} samples; "
                f"required: one of {SPLITS} for each"
            )
        self._open.close()
        index_path = self._folder / INDEX_NAME
        per_shard: dict[str, Counter[str]] = {name: Counter() for name in self._shards}
        groups: dict[str, dict[str, Any]] = {}
        with open(index_path, "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(COLUMNS)
            for (key, row), split in zip(self._rows.items(), splits, strict=True):
                lines.writerow((key, *row, split))
                name, _, _, group, modality = row
                per_shard[name][group] += 1
                counts = groups.setdefault(group, {"modality": modality, "train": 0, "val": 0})
                counts[split] = counts.get(split, 0) + 1  # `unlabelled` appears only where there are such images
        content = {
            **manifest,
            "format": FORMAT,
            "version": VERSION,
            "samples": len(self._rows),
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

        self._open.close()
        name = f"shard-{len(self._shards):06d}.tar"
        # An open file, because webdataset opens names with gopen, which can start programs.
        file = self._open.enter_context((self._folder / name).open("wb"))
        self._tar = TarWriter(file, encoder=False, mtime=0, user="", group="", mode=0o0644)
        self._open.callback(self._tar.close)
        self._shards.append(name)


def check_output(output_dir: Path, overwrite: bool) -> None:
    """Refuse an output folder that is in use.

    Raises:
        ValueError: the folder holds something else than shards, or shards that must not be overwritten.
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
