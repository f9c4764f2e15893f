"""From a shard's sample to tensors: labels, augmentation, boxes, channels and canvas."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from graysam.data.augment import Augmentation, augment
from graysam.data.boxes import Box, Jitter, tight_box
from graysam.data.sampling import Draw
from graysam.data.shards import Sample, ShardReader
from graysam.imaging.canvas import boxes_to_grid, pad, prepare_resized
from graysam.imaging.channels import Scheme


@dataclass(frozen=True)
class Item:
    """One image with its prompts: image (3,S,S) float32, boxes (N,4) float32 and masks (N,S,S) bool on the S grid."""

    key: str
    group: str
    modality: str
    image: Tensor
    boxes: Tensor
    masks: Tensor


@dataclass
class Batch:
    """Several items, padded to the largest number of boxes.

    images (B,3,S,S) float32; boxes (B,N,4) float32; masks (B,N,S,S) bool; valid (B,N) bool, False where padded.
    """

    keys: list[str]
    groups: list[str]
    modalities: list[str]
    images: Tensor
    boxes: Tensor
    masks: Tensor
    valid: Tensor

    def to(self, *args: Any, **kwargs: Any) -> "Batch":
        """Move the tensors; Lightning calls it."""
        moved = {name: getattr(self, name).to(*args, **kwargs) for name in ("images", "boxes", "masks", "valid")}
        return Batch(self.keys, self.groups, self.modalities, **moved)

    def pin_memory(self) -> "Batch":
        """Pin the tensors; the DataLoader calls it when a GPU is used."""
        pinned = {name: getattr(self, name).pin_memory() for name in ("images", "boxes", "masks", "valid")}
        return Batch(self.keys, self.groups, self.modalities, **pinned)


def collate(items: Sequence[Item]) -> Batch:
    """Stack items, padding boxes and masks with zeros to the largest number of prompts."""
    most = max(len(item.boxes) for item in items)
    size = items[0].image.shape[-1]
    boxes = torch.zeros(len(items), most, 4)
    masks = torch.zeros(len(items), most, size, size, dtype=torch.bool)
    valid = torch.zeros(len(items), most, dtype=torch.bool)
    for i, item in enumerate(items):
        count = len(item.boxes)
        boxes[i, :count], masks[i, :count], valid[i, :count] = item.boxes, item.masks, True
    return Batch(
        keys=[item.key for item in items],
        groups=[item.group for item in items],
        modalities=[item.modality for item in items],
        images=torch.stack([item.image for item in items]),
        boxes=boxes,
        masks=masks,
        valid=valid,
    )


def prompt_box(sample: Sample, label: int, size: int) -> Box:
    """Return a label's tight native box on the grid, float32 (4,), by the rule that prediction uses."""
    height, width = sample.meta["original_size"]
    return boxes_to_grid([sample.meta["boxes_xyxy"][str(label)]], height, width, size)[0]


def _to_item(
    sample: Sample,
    image: np.ndarray,
    masks: list[np.ndarray],
    boxes: list[np.ndarray],
    scheme: Scheme,
    size: int,
) -> Item:
    return Item(
        key=sample.key,
        group=str(sample.meta["group"]),
        modality=str(sample.meta["modality"]),
        image=torch.from_numpy(prepare_resized(image, scheme, size, training=True)),
        boxes=torch.from_numpy(np.stack(boxes).astype(np.float32)),
        masks=torch.from_numpy(np.stack([np.asarray(pad(mask, size)) for mask in masks])),
    )


class TrainingSlices(Dataset[Item]):
    """Random prompts on a shard's samples; indexed by `Draw`, so it holds no epoch and no state.

    Args:
        reader: the shards.
        scheme: how channels are made.
        size: side of the input grid in pixels.
        jitter: random change of the box.
        augmentations: changes of image and masks before the box is taken.
        boxes_per_image: prompts an image; drawn without repetition while the slice has as many labels.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        scheme: Scheme,
        size: int,
        jitter: Jitter,
        augmentations: Sequence[Augmentation],
        boxes_per_image: int,
    ) -> None:
        self.reader, self.scheme, self.size = reader, scheme, size
        self.jitter, self.augmentations, self.boxes_per_image = jitter, tuple(augmentations), boxes_per_image

    def __getitem__(self, draw: Draw) -> Item:
        rng = np.random.default_rng(draw.seed)
        sample = self.reader.read(draw.row)
        count = min(self.boxes_per_image, len(sample.labels))
        labels = rng.choice(sample.labels, count, replace=False).tolist()
        image, masks = augment(self.augmentations, sample.image, [sample.mask(label) for label in labels], rng)
        height, width = image.shape[:2]
        # An augmentation that moved the image left no native box; its objects' masks are then all there is.
        moved = image is not sample.image
        tight = [tight_box(m) for m in masks] if moved else [prompt_box(sample, x, self.size) for x in labels]
        boxes = [self.jitter(box, height, width, rng) for box in tight]
        return _to_item(sample, image, masks, boxes, self.scheme, self.size)


class FixedSlices(Dataset[Item]):
    """Validation: every row once, tight boxes, nothing random.

    Args:
        rows: rows of the index, in the order given.
        max_boxes_per_image: at most so many labels of a slice, evenly spread over its sorted labels; None for all.
    """

    def __init__(
        self,
        reader: ShardReader,
        rows: np.ndarray,
        *,
        scheme: Scheme,
        size: int,
        max_boxes_per_image: int | None,
    ) -> None:
        self.reader, self.rows, self.scheme, self.size = reader, rows, scheme, size
        self.max_boxes_per_image = max_boxes_per_image

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Item:
        sample = self.reader.read(int(self.rows[i]))
        labels = np.array(sample.labels)
        if self.max_boxes_per_image is not None and len(labels) > self.max_boxes_per_image:
            labels = labels[np.linspace(0, len(labels) - 1, self.max_boxes_per_image).round().astype(int)]
        masks = [sample.mask(int(label)) for label in labels]
        boxes = [prompt_box(sample, int(label), self.size) for label in labels]
        return _to_item(sample, sample.image, masks, boxes, self.scheme, self.size)
