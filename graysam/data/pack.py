"""The work of `graysam pack`: choose the source, pack it, and print what the shards hold."""

import sys
from pathlib import Path
from typing import Any

from graysam.data.challenge_source import ChallengeSource
from graysam.data.image_source import ImageSource
from graysam.data.packing import PackReport, pack
from graysam.data.shards import SPLITS
from graysam.data.split import Split

SOURCES = ("npz", "images", "demo")


def run_pack(cfg: dict[str, Any]) -> int:
    """Pack cases into shards as `conf/pack.yaml` describes.

    Returns:
        0, or 1 when bad files were left out.

    Raises:
        ValueError: settings or folders that cannot be used.
    """
    if cfg["source"] not in SOURCES:
        raise ValueError(f"source is {cfg['source']!r}; required: {', '.join(SOURCES)}")
    if cfg["output_dir"] is None:
        raise ValueError("output_dir is not set; add output_dir=data_shards/NAME")
    if cfg["input_dir"] is None and cfg["source"] != "demo":
        raise ValueError("input_dir is not set; add input_dir=FOLDER of training NPZ, or source=demo")
    output_dir = Path(cfg["output_dir"])
    try:
        report = _pack(cfg, output_dir)
    except OSError as error:
        raise ValueError(f"cannot read or write {error.filename or output_dir}: {error.strerror or error}") from None
    print_summary(report.manifest, output_dir)
    for file, reason in report.bad.items():
        print(f"left out: {file}: {reason}", file=sys.stderr)
    if report.bad:
        print(f"{len(report.bad)} of {report.manifest['cases']['found']} files were left out", file=sys.stderr)
    return 1 if report.bad else 0


def _pack(cfg: dict[str, Any], output_dir: Path) -> PackReport:
    if cfg["source"] == "demo":
        from graysam.data.demo import build_demo

        return PackReport(build_demo(output_dir, **cfg["demo"], overwrite=cfg["overwrite"]), bad={})
    shared = {key: cfg[key] for key in ("samples_per_shard", "workers", "overwrite")}
    folder, size = Path(cfg["input_dir"]), cfg["size"]
    if cfg["source"] == "images":
        return pack(ImageSource(folder=folder, size=size), output_dir, split=None, **shared)
    source = ChallengeSource(
        folder=folder, size=size, spacing_order=cfg["spacing_order"], patient_pattern=cfg["patient_pattern"]
    )
    split = Split(val_fraction=cfg["val_fraction"], split_by=cfg["split_by"], seed=cfg["seed"])
    return pack(source, output_dir, split=split, **shared)


def print_summary(manifest: dict[str, Any], output_dir: Path) -> None:
    """Print the contents of a folder of shards, one line a group."""
    megabytes = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    print(f"{output_dir}: {manifest['samples']} samples in {len(manifest['shards'])} shards, {megabytes:.1f} MB")
    splits = [split for split in SPLITS if any(counts.get(split) for counts in manifest["groups"].values())]
    print(f"{'group':24} " + " ".join(f"{split:>10}" for split in splits))
    for group, counts in manifest["groups"].items():
        print(f"{group:24} " + " ".join(f"{counts.get(split, 0):10}" for split in splits))
    for reason, count in manifest.get("left_out", {}).items():
        print(f"left out, {reason.replace('_', ' ')}: {count}")
    for group in manifest["split"].get("groups_without_val", []):
        print(f"nothing held out in {group}: it has one subject only, or shares its subjects with such a group")
