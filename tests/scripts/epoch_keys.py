"""Count what each epoch gives of every group, over ranks and DataLoader workers, through the real data module.

python -m tests.scripts.epoch_keys SHARDS_DIR --ranks 2 --workers 3 --epochs 2 --samples 100
"""

import argparse
import json
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


def collect(rank: int, arguments: argparse.Namespace, folder: Path) -> None:
    """Read the epochs of one rank's share, gather all ranks' keys by gloo, and let rank 0 write them."""
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    meeting = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=arguments.ranks)
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
        gathered: list[Any] = [None] * arguments.ranks
        torch.distributed.all_gather_object(gathered, [(batch.keys, batch.groups) for batch in loader])
        epochs.append(gathered)
    if rank == 0:
        (folder / "keys.json").write_text(json.dumps(epochs))
    torch.distributed.destroy_process_group()


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the ranks and return per epoch: samples by group, and the global order of keys by batch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shards")
    for name, default in (("ranks", 1), ("workers", 0), ("epochs", 2), ("samples", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(collect, args=(arguments, Path(folder)), nprocs=arguments.ranks)
        epochs = json.loads((Path(folder) / "keys.json").read_text())
    result = []
    for ranks in epochs:
        groups = Counter(group for rank in ranks for _, groups in rank for group in groups)
        # global batch b = interleaving of the ranks' batches b
        batches = [zip(*(keys for keys, _ in batches), strict=True) for batches in zip(*ranks, strict=True)]
        order = [key for batch in batches for keys in batch for key in keys]
        result.append({"groups": dict(sorted(groups.items())), "order": order})
    return result


if __name__ == "__main__":
    for number, epoch in enumerate(main(sys.argv[1:])):
        print(f"epoch {number}: {epoch['groups']}, {len(set(epoch['order']))} distinct of {len(epoch['order'])}")
