"""Count what each epoch gives of every group, over ranks and reading processes, through the real data module.

python -m tests.scripts.epoch_keys SHARDS_DIR --ranks 2 --workers 3 --epochs 2 --samples 100
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing

from tests.support.config import compose_plain
from tests.support.training import build_data


def collect(rank: int, arguments: argparse.Namespace, meeting: str, output: str) -> None:
    """Read two epochs of one rank's share, gather all ranks' keys by gloo, and let rank 0 write them."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=arguments.ranks)
    config = compose_plain(
        "train",
        ["data=challenge", "channels=replicate", f"data.shards_dir={arguments.shards}",
         f"data.samples_per_group={arguments.samples}", f"data.num_workers={arguments.workers}",
         f"data.batch_size={8 // arguments.ranks}"],
    )  # fmt: skip
    data = build_data(config)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=arguments.ranks)  # type: ignore[assignment]
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(arguments.epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        mine = [(batch.keys, batch.groups) for batch in loader]
        gathered: list[Any] = [None] * arguments.ranks
        torch.distributed.all_gather_object(gathered, mine)
        epochs.append(gathered)
    if rank == 0:
        Path(output).write_text(json.dumps(epochs))
    torch.distributed.destroy_process_group()


def summarise(epochs: list[Any]) -> list[dict[str, Any]]:
    """Return per epoch: samples by group, distinct keys, and the global order of keys by batch."""
    result = []
    for ranks in epochs:
        groups: Counter[str] = Counter(g for rank in ranks for _, gs in rank for g in gs)
        # global batch b = interleaving of the ranks' batches b
        order = [
            key
            for batches in zip(*ranks, strict=True)
            for keys in zip(*(keys for keys, _ in batches), strict=True)
            for key in keys
        ]
        result.append({"groups": dict(sorted(groups.items())), "distinct": len(set(order)), "order": order})
    return result


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the ranks and return what `summarise` says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shards")
    for name, default in (("ranks", 1), ("workers", 0), ("epochs", 2), ("samples", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "keys.json")
        torch.multiprocessing.spawn(
            collect, args=(arguments, os.path.join(folder, "meet"), output), nprocs=arguments.ranks
        )
        return summarise(json.loads(Path(output).read_text()))


if __name__ == "__main__":
    for number, epoch in enumerate(main(sys.argv[1:])):
        print(f"epoch {number}: {epoch['groups']}, {epoch['distinct']} distinct of {len(epoch['order'])}")
