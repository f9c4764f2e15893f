"""Pack a folder of cases into shards, an index and a manifest, byte-identical for any number of workers."""

import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Literal

import cv2

from graysam.data.demo import build_demo
from graysam.data.shard_writing import ShardWriter, StoredSize, check_output, make_keys, safe_name
from graysam.data.shards import MANIFEST_NAME, SPLITS
from graysam.data.sources import ChallengeSource, GroupBy, ImageSource, PackedCase, Source
from graysam.data.split import Split, SplitBy, Subject
from graysam.io.image import SpacingOrder
from graysam.io.listing import Listing
from graysam.system.files import replacing_folder
from graysam.system.terminal import check_at_least, progress

CASES_PER_WORKER = 8  # in memory at once, so that finished cases do not pile up behind a slow one


def run_pack(
    *,
    source: Literal["npz", "images", "demo"],
    input_dir: str | None,
    output_dir: str | None,
    overwrite: bool,
    demo: dict[str, int],
    val_fraction: float,
    split_by: SplitBy,
    seed: int,
    patient_pattern: str | None,
    spacing_order: SpacingOrder,
    exclude_datasets: list[str],
    group_by: GroupBy,
    size: StoredSize,
    samples_per_shard: int,
    workers: int,
) -> int:
    """Pack cases into shards as `conf/pack.yaml` describes, and print what they hold.

    Returns:
        0, or 1 when bad files were left out.

    Raises:
        ValueError: settings or folders that cannot be used.
    """
    if output_dir is None:
        raise ValueError("output_dir is not set; add output_dir=data_shards/NAME")
    if input_dir is None and source != "demo":
        raise ValueError("input_dir is not set; add input_dir=FOLDER of training NPZ, or source=demo")
    target, folder = Path(output_dir), Path(input_dir or "")
    shared: dict[str, Any] = {"samples_per_shard": samples_per_shard, "workers": workers, "overwrite": overwrite}
    try:
        if source == "demo":
            manifest = build_demo(target, **demo, overwrite=overwrite)
        elif source == "images":
            manifest = pack(ImageSource(folder=folder, size=size), target, split=None, **shared)
        else:
            cases = ChallengeSource(
                folder=folder,
                size=size,
                spacing_order=spacing_order,
                patient_pattern=patient_pattern,
                exclude_datasets=exclude_datasets,
                group_by=group_by,
            )
            split = Split(val_fraction=val_fraction, split_by=split_by, seed=seed)
            manifest = pack(cases, target, split=split, **shared)
    except OSError as error:
        raise ValueError(f"cannot read or write {error.filename or target}: {error.strerror or error}") from None
    megabytes = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    count, each = manifest["samples"], 1000 * megabytes / manifest["samples"]
    print(f"{target}: {count} samples in {len(manifest['shards'])} shards, {megabytes:.1f} MB, {each:.1f} kB a sample")
    splits = [split for split in SPLITS if any(counts.get(split) for counts in manifest["groups"].values())]
    print(f"{'group':24} " + " ".join(f"{split:>10}" for split in splits))
    for group, counts in manifest["groups"].items():
        print(f"{group:24} " + " ".join(f"{counts.get(split, 0):10}" for split in splits))
    for reason, count in manifest.get("left_out", {}).items():
        print(f"left out, {reason.replace('_', ' ')}: {count}")
    sys.stdout.writelines(f"{line}\n" for line in _describe_not_held_out(manifest["split"]))
    notes, cases = manifest.get("notes", {}), manifest.get("cases", {})
    sys.stderr.writelines(f"note: {of['cases']} cases, first {of['first']}: {note}\n" for note, of in notes.items())
    sys.stderr.writelines(Listing([], cases.get("not_read", {})).describe(folder))
    bad = cases.get("bad", {})
    for file, reason in bad.items():
        print(f"left out: {file}: {reason}", file=sys.stderr)
    if bad:
        print(f"{len(bad)} of {manifest['cases']['found']} files were left out", file=sys.stderr)
    return 1 if bad else 0


def _describe_not_held_out(split: Mapping[str, Any]) -> list[str]:
    """Return the reason why nothing is held out, in a line for each group, or in one for all."""
    if split.get("val_fraction") == 0:
        return ["nothing is held out: val_fraction is 0; training needs held-out samples, here or in further shards"]
    reasons = {
        group: "it has one subject only" if split["subjects"][group] == 1 else "a group of one subject shares them all"
        for group in split["groups_without_val"]
    }
    return [f"nothing held out in {group}: {reason}" for group, reason in reasons.items()]


def pack(
    source: Source,
    output_dir: Path,
    *,
    samples_per_shard: int,
    split: Split | None,
    workers: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Pack all cases of a source into shards.

    Args:
        source: the cases; a bad file is left out and reported in the manifest.
        output_dir: appears when everything is written, or not at all.
        samples_per_shard: most samples of a tar file.
        split: into training and validation; None for images without masks, which form the split `unlabelled`.
        workers: processes, each of which holds one case at a time; the output does not depend on their number.
        overwrite: whether shards in output_dir are replaced.

    Returns:
        The manifest.

    Raises:
        ValueError: no usable file in the input folder, or an output folder in use.
    """
    check_at_least(1, "workers", workers)
    check_output(output_dir, overwrite, source.folder)
    files, not_read = source.list_files()
    names = {file: source.name_of(file) for file in files}
    keys = make_keys(names)
    bad: dict[str, str] = {}
    notes: dict[str, list[str]] = {}  # text -> files
    left_out: Counter[str] = Counter()
    written: list[tuple[str, str, Subject]] = []
    with (
        replacing_folder(output_dir, last=MANIFEST_NAME, replace_existing=overwrite) as folder,
        ShardWriter(folder, samples_per_shard) as writer,
    ):
        cases = progress(_encode_all(source, keys, workers), "packing", len(files))
        for file, case in zip(files, cases, strict=True):
            if isinstance(case, str):
                bad[file] = case
                continue
            left_out += case.left_out
            for note in case.notes:
                notes.setdefault(note, []).append(file)
            for sample in case.samples:
                writer.write(sample)
                written.append((sample.key, sample.group, case.subject))
        if not written:
            first = next((f"; the first of {len(bad)} bad files: {name}: {why}" for name, why in bad.items()), "")
            raise ValueError(f"{source.folder}: none of {len(files)} files gave a sample{first}")
        if split is None:
            sides = ["unlabelled"] * len(written)
            described: dict[str, Any] = {"by": "nothing: there are no masks", "groups_without_val": []}
        else:
            sides, described = split.assign(written)
        content = {
            "source": source.layout,
            "split": described,
            "packing": {"size": source.size, "samples_per_shard": samples_per_shard, **source.settings()},
            "cases": {"found": len(files), "bad": bad, "not_read": dict(sorted(not_read.items()))},
            "shortened_keys": {keys[file]: file for file, name in names.items() if keys[file] != safe_name(name)},
            "notes": {note: {"cases": len(noted), "first": noted[0]} for note, noted in notes.items()},
            "left_out": dict(sorted(left_out.items())),
        }
        return writer.finish(sides, content)


def _encode_all(source: Source, keys: Mapping[str, str], workers: int) -> Iterator[PackedCase | str]:
    """Encode files, given with their keys, in processes and yield the results in the files' order."""
    if workers == 1:
        yield from map(source.encode_or_report, keys, keys.values())
        return
    files = list(keys)
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    at_once = workers * CASES_PER_WORKER
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        try:
            for start in range(0, len(files), at_once):
                some = files[start : start + at_once]
                yield from pool.map(source.encode_or_report, some, [keys[file] for file in some])
        except BrokenProcessPool:
            message = f"one of {workers} workers was killed, probably out of memory; use fewer workers"
            raise ValueError(message) from None
