"""The LightningDataModule over packed shards."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from graysam.data.augment import Augmentation, Jitter
from graysam.data.dataset import FixedSlices, Item, TrainingSlices, collate
from graysam.data.sampling import BalancedSampler
from graysam.data.shards import ShardReader
from graysam.data.views import Views
from graysam.imaging.channels import Scheme
from graysam.system.terminal import check_at_least


class ResumableLoader(DataLoader[Item]):
    """Training batches that resume within an epoch; Lightning stores the state in a checkpoint."""

    sampler: BalancedSampler
    batch_size: int
    yielded = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.yielded = self.sampler.begin_at // self.batch_size
        for batch in super().__iter__():
            self.yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the number of draws yielded in this epoch; 0 when it is complete."""
        return {"draws": self.yielded * self.batch_size if self.yielded < len(self) else 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the draws that were yielded before in the next epoch that is iterated."""
        self.sampler.begin_at = state["draws"]


@dataclass(kw_only=True, eq=False)
class ShardDataModule(lightning.LightningDataModule):
    """Balanced training batches and fixed validation batches from a folder of shards.

    Args:
        shards_dir: folder that `graysam.pack` wrote.
        further_shards: more such folders, whose groups join; images without masks (`graysam.pack source=images`) have
            no prompts.
        drop_leaked: whether training samples that another of these folders holds out are left out instead of refused.
        exclude_groups: groups or modalities that training does not draw; they are still validated.
        prepare: makes missing shards in shards_dir (the embedded demo), or None.
        scheme, size, teacher_scheme: as for `Slices`.
        jitter, views, augmentations, boxes_per_image: as for `TrainingSlices`.
        seed: of the sampler and of all random choices per sample.
        samples_per_group: exact count of every group an epoch, None for all its samples.
        cap_small_groups: whether a group gives at most its own size an epoch.
        with_replacement: whether each sample is drawn from its whole group, so that some are repeated and some missing.
        views_per_group: number of different images (fixed crops and label choices of its samples) of a group over all
            epochs, so that a teacher's embeddings of them can be cached; None draws new ones each time.
        val_boxes_per_image: most validation prompts an image, None for all.
        batch_size, val_batch_size: per process.
        num_workers: DataLoader workers per process; 0 reads in the main one.
        pin_memory: whether to pin batches for a GPU.

    Raises:
        ValueError: a count below 1; at setup: no shards, no training or validation samples, or nothing of a name in
            `exclude_groups`.
    """

    shards_dir: str | Path
    further_shards: Sequence[str | Path]
    drop_leaked: bool
    exclude_groups: Sequence[str]
    prepare: Callable[[Path], Any] | None
    scheme: Scheme
    size: int
    jitter: Jitter
    views: Views
    augmentations: Sequence[Augmentation]
    seed: int
    samples_per_group: int | None
    cap_small_groups: bool
    with_replacement: bool
    views_per_group: int | None
    boxes_per_image: int
    val_boxes_per_image: int | None
    batch_size: int
    val_batch_size: int
    num_workers: int
    pin_memory: bool
    teacher_scheme: Scheme | None = None

    def __post_init__(self) -> None:
        super().__init__()
        counts = ("boxes_per_image", "batch_size", "val_batch_size")
        for name in (*counts, "samples_per_group", "views_per_group", "val_boxes_per_image"):
            check_at_least(1, f"data.{name}", getattr(self, name))

    @cached_property
    def reader(self) -> ShardReader:
        """The shards."""
        return ShardReader(self.shards_dir, *self.further_shards, drop_leaked=self.drop_leaked)

    def prepare_data(self) -> None:
        """Make the shards where they are missing; Lightning calls it on one process of a machine."""
        if self.prepare is not None:
            self.prepare(Path(self.shards_dir))

    def setup(self, stage: str | None = None) -> None:
        """Read the index; Lightning calls it once per process."""
        for split in ("train", "val"):
            if not len(self.reader.rows(split=split)):
                raise ValueError(f"{self.shards_dir} holds no {split} samples; pack again with another val_fraction")
        self.sampler()  # fails early on groups that cannot be excluded

    def _rank_of_ranks(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    def sampler(self, rank: int = 0, ranks: int = 1) -> BalancedSampler:
        """Return the balanced sampler of one rank."""
        reader = self.reader
        drawn = np.concatenate([reader.rows(split) for split in ("train", "unlabelled")])
        for name in self.exclude_groups:
            named = (reader.groups[drawn] == name) | (reader.modalities[drawn] == name)
            if not named.any():
                raise ValueError(f"data.exclude_groups: no training samples of a group or modality {name}")
            drawn = drawn[~named]
        if not len(drawn):
            raise ValueError("data.exclude_groups leaves no training samples")
        return BalancedSampler(
            {str(name): drawn[reader.groups[drawn] == name] for name in np.unique(reader.groups[drawn])},
            samples_per_group=self.samples_per_group,
            cap_small_groups=self.cap_small_groups,
            with_replacement=self.with_replacement,
            views_per_group=self.views_per_group,
            seed=self.seed,
            rank=rank,
            ranks=ranks,
        )

    def _loader(self, kind: type[DataLoader[Item]], dataset: Any, **kwargs: Any) -> DataLoader[Item]:
        if self.num_workers > 0:
            cv2.setNumThreads(1)  # a forked process hangs when it shrinks a pool that its parent has started
        return kind(
            dataset,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            worker_init_fn=_start_worker,
            **kwargs,
        )

    def _settings(self) -> dict[str, Any]:
        return {"scheme": self.scheme, "size": self.size, "teacher_scheme": self.teacher_scheme}

    def train_dataloader(self) -> DataLoader[Item]:
        """Return balanced batches; Lightning sets the sampler's epoch."""
        dataset = TrainingSlices(
            self.reader,
            jitter=self.jitter,
            views=self.views,
            augmentations=self.augmentations,
            boxes_per_image=self.boxes_per_image,
            **self._settings(),
        )
        sampler = self.sampler(*self._rank_of_ranks())
        return self._loader(ResumableLoader, dataset, sampler=sampler, batch_size=self.batch_size)

    def validation_set(self, rank: int = 0, ranks: int = 1) -> FixedSlices:
        """Return one rank's share of all held-out slices."""
        rows = self.reader.rows(split="val")
        if len(rows) < ranks:
            raise ValueError(f"{self.shards_dir} holds {len(rows)} validation samples for {ranks} ranks; use fewer")
        most = self.val_boxes_per_image
        return FixedSlices(self.reader, rows[rank::ranks], max_boxes_per_image=most, **self._settings())

    def val_dataloader(self) -> DataLoader[Item]:
        """Return the fixed validation batches."""
        items = self.validation_set(*self._rank_of_ranks())
        return self._loader(DataLoader, items, batch_size=self.val_batch_size, shuffle=False)


def _start_worker(_: int) -> None:
    """Keep a DataLoader worker to one thread, and leave Ctrl-C, which reaches all processes, to the main one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
