"""Measure how many training samples a second one DataLoader worker reads, in seconds of its CPU time.

python -m tests.scripts.reading_speed SHARDS_DIR views=mixed
"""

import sys
import time

import cv2
import torch

from tests.support.config import compose_plain
from tests.support.training import build_data

SAMPLES = 600  # evenly over the groups


def main(argv: list[str]) -> float:
    """Read samples as the configuration with the given overrides does, and return samples a second."""
    shards, *overrides = argv
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    given = ["data=challenge", f"data.shards_dir={shards}", "data.num_workers=0", "data.batch_size=1", *overrides]
    data = build_data(compose_plain("train", [*given, f"data.samples_per_group={SAMPLES}"]))
    batches = iter(data.train_dataloader())
    for _ in range(20):
        next(batches)
    start = time.process_time()
    for _ in range(SAMPLES):
        next(batches)
    return SAMPLES / (time.process_time() - start)


if __name__ == "__main__":
    print(f"{main(sys.argv[1:]):.0f} samples a second, n = {SAMPLES}")
