"""Exact, reproducible, evenly worn epochs for any number of workers and ranks."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graysam.data.augment import NoJitter, OutwardJitter
from graysam.data.datamodule import ShardDataModule
from graysam.data.sampling import BalancedSampler, Draw, group_counts
from graysam.data.views import FullViews
from graysam.imaging.channels import load_scheme
from tests.support.config import compose_plain
from tests.support.shards import make_shards

ROWS = {"a": np.arange(7), "b": np.arange(7, 10)}


def module(folder: Path, **changes: Any) -> ShardDataModule:
    given = {key: value for key, value in compose_plain("train", ["data=challenge"])["data"].items() if key[0] != "_"}
    given |= {"shards_dir": folder, "samples_per_group": 5, "batch_size": 4, "val_batch_size": 2, "num_workers": 0}
    given |= {
        "scheme": load_scheme("replicate"),
        "jitter": OutwardJitter(max_px=5),
        "augmentations": (),
        "views": FullViews(),
    }
    return ShardDataModule(**{**given, **changes})


def epoch_batches(data: ShardDataModule, epoch: int) -> list[Any]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)


@pytest.mark.parametrize(
    ("count", "capped", "ranks", "expected"),
    [
        (5, False, 1, {"a": 5, "b": 5}),
        (5, True, 1, {"a": 5, "b": 3}),
        (None, False, 1, {"a": 7, "b": 3}),
        (5, False, 4, {"a": 6, "b": 6}),
        (5, False, 3, {"a": 6, "b": 6}),
        (1, False, 7, {"a": 4, "b": 3}),
    ],
)
def test_groups_give_exact_counts_rounded_up_to_the_ranks(
    count: int | None, capped: bool, ranks: int, expected: dict[str, int]
) -> None:
    assert group_counts({"a": 7, "b": 3}, count, capped, ranks) == expected


def plan(
    groups: dict[str, Any], count: int, *, seed: int = 0, epoch: int = 0, rank: int = 0, ranks: int = 1, **options: Any
) -> list[Draw]:
    given = {"samples_per_group": count, "cap_small_groups": False, "seed": seed, **options}
    sampler = BalancedSampler(groups, rank=rank, ranks=ranks, **given)
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert len(draws) == len(sampler)
    return draws


@given(size=st.integers(1, 30), count=st.integers(1, 70), seed=st.integers(0, 5), epochs=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_no_row_comes_again_while_another_is_unseen(size: int, count: int, seed: int, epochs: int) -> None:
    rows = {"g": np.arange(100, 100 + size)}
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        drawn = Counter(draw.row for draw in plan(rows, count, seed=seed, epoch=epoch))
        assert drawn.total() == count
        assert max(drawn.values()) - min(drawn.get(r, 0) for r in rows["g"]) <= 1  # within the epoch
        seen += drawn
        assert max(seen.values()) - min(seen.get(r, 0) for r in rows["g"]) <= 1  # over all epochs


def test_same_seed_and_epoch_give_the_same_draws_and_others_do_not() -> None:
    assert plan(ROWS, 5, epoch=1) == plan(ROWS, 5, epoch=1)
    rows = [[draw.row for draw in plan(ROWS, 5, seed=seed, epoch=epoch)] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert rows[0] != rows[1]
    assert rows[0] != rows[2]


def test_with_replacement_samples_come_twice_and_counts_stay_exact() -> None:
    rows = {"g": np.arange(50)}
    epochs = [[d.row for d in plan(rows, 50, epoch=epoch, with_replacement=True)] for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(epochs[0]) == 50
    assert len(set(epochs[0])) < 45


def test_ranks_share_an_epoch_without_overlap() -> None:
    whole = plan(ROWS, 5, seed=2, epoch=4)
    first, second = (plan(ROWS, 5, seed=2, epoch=4, rank=rank, ranks=2) for rank in (0, 1))
    # batch b of two ranks of batch size k is batch b of one rank of batch size 2 k
    assert [d for pair in zip(first, second, strict=True) for d in pair] == whole


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than cores is the point
def test_workers_do_not_change_epochs(toy_shards: Path) -> None:
    loader = module(toy_shards, num_workers=3).train_dataloader()
    for epoch in (0, 1):  # the workers persist
        alone = epoch_batches(module(toy_shards), epoch)
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for left, right in zip(alone, loader, strict=True):
            assert left.keys == right.keys
            assert left.boxes.equal(right.boxes)
            assert left.images.equal(right.images)


def test_the_same_sample_gets_another_label_and_box_in_another_epoch(toy_shards: Path) -> None:
    data = module(toy_shards, samples_per_group=None)
    boxes: dict[str, set[tuple[float, ...]]] = {}
    for epoch in range(4):
        for batch in epoch_batches(data, epoch):
            for key, box in zip(batch.keys, batch.boxes[:, 0].tolist(), strict=True):
                boxes.setdefault(key, set()).add(tuple(box))
    assert all(len(found) > 1 for found in boxes.values())


def test_validation_is_fixed_and_covers_every_held_out_slice(toy_shards: Path) -> None:
    data = module(toy_shards, jitter=NoJitter())
    first, second = list(data.val_dataloader()), list(data.val_dataloader())
    keys = [key for batch in first for key in batch.keys]
    assert sorted(keys) == ["CT_toy-3", "US-7", "US-8"]
    for left, right in zip(first, second, strict=True):
        assert left.boxes.equal(right.boxes)
        assert left.masks.equal(right.masks)
    for batch in first:  # the tight box of each mask
        for mask, box in zip(batch.masks[batch.valid], batch.boxes[batch.valid], strict=True):
            y, x = mask.nonzero(as_tuple=True)
            assert box.tolist() == [x.min(), y.min(), x.max(), y.max()]


def test_shards_without_validation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no val samples"):
        module(make_shards(tmp_path / "s", validation=False)).setup()
