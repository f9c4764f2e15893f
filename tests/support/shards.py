"""Small synthetic shards for tests: bright discs on noise, two groups of different sizes."""

from pathlib import Path

import numpy as np

from graysam.data.shard_writing import ShardWriter, encode_image

GROUPS = {"US": ("US", 7, 2), "CT_toy": ("CT", 3, 1)}  # group -> modality, training and validation samples


def disc(size: int, y: int, x: int, radius: int) -> np.ndarray:
    """Return a bool disc on a (size,size) grid."""
    rows, columns = np.ogrid[:size, :size]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def make_shards(folder: Path, *, validation: bool = True) -> Path:
    """Write shards of 256 px images with one or two labels each, and return their folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    splits = []
    with ShardWriter(folder, samples_per_shard=5) as writer:
        for group, (modality, train, val) in GROUPS.items():
            for i in range(train + val):
                masks = {1: disc(256, int(rng.integers(70, 180)), int(rng.integers(60, 100)), 30)}
                if i % 2:
                    masks[3] = disc(256, int(rng.integers(70, 180)), int(rng.integers(170, 200)), 20)
                image = rng.integers(0, 60, (256, 256))
                for mask in masks.values():
                    image[mask] += 150
                meta = {
                    "case_id": f"{group}-{i}",
                    "subject_id": str(i),
                    "dataset": "toy",
                    "slice_index": None,
                    "spacing_mm_zyx": None,
                    "group": group,
                    "modality": modality,
                }
                maps = [mask * np.uint8(label) for label, mask in masks.items()]
                sample, _ = encode_image(f"{group}-{i}", image.astype(np.uint8), maps, meta, size=256)
                assert sample is not None
                writer.write(sample)
                splits.append("train" if i < train or not validation else "val")
        writer.finish(splits, {"split": {"seed": 0}})
    return folder
