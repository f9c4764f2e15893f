"""Which samples an epoch holds: exact counts per group, as a pure function of (index, seed, epoch).

The paper (section 3.2) takes 1000 samples of each 2D modality and each 3D sub-modality an epoch. Here every group
walks cyclically through one seeded permutation of its rows, so that no sample comes twice while the group still has
unseen ones - within an epoch and across epochs - and groups smaller than the count are repeated evenly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """One sample of an epoch: its row, the seed of its random choices, and the number of its view.

    A view fixes the image (labels, augmentation, crop), so that a teacher's embedding of it can be cached; None draws
    a new one.
    """

    row: int
    seed: tuple[int, ...]
    view: int | None = None


def group_counts(
    sizes: Mapping[str, int], samples_per_group: int | None, cap_small_groups: bool, ranks: int
) -> dict[str, int]:
    """Return how many samples each group gives an epoch.

    Args:
        sizes: rows of every group; none may be 0.
        samples_per_group: the count wanted of every group, None for all its rows.
        cap_small_groups: whether a group gives at most its own size (the released code).
        ranks: processes; the total is rounded up to a multiple of them by one more sample of some groups, those
            that are not capped first.
    """
    counts = {}
    for name, size in sorted(sizes.items()):
        wanted = size if samples_per_group is None else samples_per_group
        counts[name] = min(wanted, size) if cap_small_groups else wanted
    names = sorted(counts, key=lambda name: (cap_small_groups and counts[name] == sizes[name], name))
    for extra in range(-sum(counts.values()) % ranks):
        counts[names[extra % len(names)]] += 1
    return counts


@dataclass(eq=False)
class BalancedSampler(Sampler[Draw]):
    """Yields one rank's draws of the current epoch.

    Rank r takes positions r, r + ranks, ...: batch b over all ranks holds the same draws as batch b of one process
    with a batch `ranks` times as large.

    Args:
        groups: rows by group.
        samples_per_group, cap_small_groups, ranks: as for `group_counts`.
        seed: of all draws.
        with_replacement: whether each row is drawn from its whole group, as in the released code.
        views_per_group: number of different images of a group over all epochs, at least one of every row; each row has
            an equal number of views, drawn at random. None draws a new one each time.
        rank: of this process.
    """

    groups: Mapping[str, Rows]
    _: KW_ONLY
    samples_per_group: int | None
    cap_small_groups: bool
    seed: int
    with_replacement: bool = False
    views_per_group: int | None = None
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        sizes = {name: len(rows) for name, rows in self.groups.items()}
        self.counts = group_counts(sizes, self.samples_per_group, self.cap_small_groups, self.ranks)
        self.epoch = 0
        self.begin_at = 0  # draws to skip in the next iteration only, when a run resumes within an epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; Lightning calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self.counts.values()) // self.ranks

    def __iter__(self) -> Iterator[Draw]:
        """Return the rank's draws, a part of the epoch's, which are the same on every process.

        Each draw carries its own seed, so that labels and jitter do not depend on the worker or rank that reads it.
        """
        parts = [self._draw_group(name) for name in self.counts]
        rows = np.concatenate(parts)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(rows))
        views: list[int | None] = [None] * len(rows)
        if self.views_per_group is not None:
            each = [max(1, self.views_per_group // len(self.groups[name])) for name in self.counts]
            most = np.repeat(each, [len(part) for part in parts])
            views = np.random.default_rng((self.seed, self.epoch, 1)).integers(most).tolist()
        plan = [Draw(int(rows[at]), (self.seed, self.epoch, place), views[at]) for place, at in enumerate(order)]
        begin_at, self.begin_at = self.begin_at, 0
        return iter(plan[self.rank :: self.ranks][begin_at:])

    def _draw_group(self, name: str) -> Rows:
        """Return the rows of a group: whole copies, then the next part of a cyclic walk through a permutation."""
        rows, count = self.groups[name], self.counts[name]
        # The name as a number, which unlike hash() is the same in all processes.
        seed = (self.seed, int.from_bytes(name.encode()[:64], "little"))
        if self.with_replacement:
            return np.random.default_rng((*seed, self.epoch)).choice(rows, count)
        copies, rest = divmod(count, len(rows))
        walk = np.random.default_rng(seed).permutation(rows)
        places = (self.epoch * rest + np.arange(rest)) % len(rows)
        return np.concatenate([np.tile(rows, copies), walk[places]])


def choose(groups: NDArray[np.str_], count: int | None) -> list[int]:
    """Return at most `count` positions, in order: groups in round-robin, evenly spread within each; None takes all."""
    if count is None or count >= len(groups):
        return list(range(len(groups)))
    places = {str(name): np.flatnonzero(groups == name) for name in np.unique(groups)}
    quota = dict.fromkeys(places, 0)
    while sum(quota.values()) < count:
        for name, available in places.items():
            if quota[name] < len(available) and sum(quota.values()) < count:
                quota[name] += 1
    chosen = [places[name][np.linspace(0, len(places[name]) - 1, n).round().astype(int)] for name, n in quota.items()]
    return sorted(int(place) for part in chosen for place in part)
