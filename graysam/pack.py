"""`python -m graysam.pack`: raw cases become shards, an index and a manifest."""

import sys
from pathlib import Path
from typing import Any

from graysam.system.extras import require

require("train")

from graysam.config.command import entry_point  # noqa: E402
from graysam.data.image_packing import pack_images  # noqa: E402
from graysam.data.packing import PackOptions, PackReport, pack_folder  # noqa: E402
from graysam.data.shards import SPLITS  # noqa: E402


@entry_point("pack")
def main(cfg: dict[str, Any]) -> int:
    """Pack a folder of challenge training NPZ, or the demo.

    Returns 0; 1 when bad files were left out. ValueError for settings and folders that cannot be used.
    """
    if cfg["output_dir"] is None:
        raise ValueError("output_dir is not set; add output_dir=data_shards/NAME")
    output_dir = Path(cfg["output_dir"])
    try:
        if cfg["source"] == "demo":
            from graysam.data.demo import build_demo

            manifest = build_demo(output_dir, **cfg["demo"], overwrite=cfg["overwrite"])
            print_summary(manifest, output_dir)
            return 0
        if cfg["source"] not in ("npz", "images"):
            raise ValueError(f"source is {cfg['source']!r}; required: npz, images or demo")
        if cfg["input_dir"] is None:
            raise ValueError("input_dir is not set; add input_dir=FOLDER of training NPZ, or source=demo")
        if cfg["source"] == "images":
            shared = {key: cfg[key] for key in ("size", "samples_per_shard", "workers", "overwrite")}
            return tell(pack_images(cfg["input_dir"], output_dir, **shared), output_dir)
        options = PackOptions(
            size=cfg["size"],
            spacing_order=cfg["spacing_order"],
            patient_pattern=cfg["patient_pattern"],
            val_fraction=cfg["val_fraction"],
            split_by=cfg["split_by"],
            seed=cfg["seed"],
            samples_per_shard=cfg["samples_per_shard"],
        )
        report = pack_folder(cfg["input_dir"], output_dir, options, workers=cfg["workers"], overwrite=cfg["overwrite"])
    except OSError as error:
        raise ValueError(f"cannot read or write {error.filename or output_dir}: {error.strerror or error}") from None
    return tell(report, output_dir)


def tell(report: PackReport, output_dir: Path) -> int:
    """Print what was packed and what was left out; return the exit code."""
    print_summary(report.manifest, output_dir)
    for file, reason in report.bad.items():
        print(f"left out: {file}: {reason}", file=sys.stderr)
    if report.bad:
        print(f"{len(report.bad)} of {report.manifest['cases']['found']} files were left out", file=sys.stderr)
    return 1 if report.bad else 0


def print_summary(manifest: dict[str, Any], output_dir: Path) -> None:
    """Print what a folder of shards holds, one line a group."""
    megabytes = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    print(f"{output_dir}: {manifest['samples']} samples in {len(manifest['shards'])} shards, {megabytes:.1f} MB")
    splits = [split for split in SPLITS if any(counts.get(split) for counts in manifest["groups"].values())]
    print(f"{'group':24} " + " ".join(f"{split:>10}" for split in splits))
    for group, counts in manifest["groups"].items():
        print(f"{group:24} " + " ".join(f"{counts.get(split, 0):10}" for split in splits))
    for what, count in manifest.get("left_out", {}).items():
        print(f"left out, {what.replace('_', ' ')}: {count}")
    for group in manifest["split"].get("groups_without_val", []):
        print(f"nothing held out in {group}: it has one subject only, or shares its subjects with such a group")


if __name__ == "__main__":
    raise SystemExit(main())
