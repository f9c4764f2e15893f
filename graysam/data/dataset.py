"""From a shard's sample to tensors: labels, augmentation, boxes, channels and canvas."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from graysam.data.augment import Augmentation, Box, Jitter
from graysam.data.sampling import Draw
from graysam.data.shards import Sample, ShardError, ShardReader
from graysam.data.views import Views, draw_crop
from graysam.imaging.canvas import boxes_to_grid, pad, prepare_image, resize_labels, resize_longest_side
from graysam.imaging.channels import Scheme
from graysam.imaging.prompts import mask_bounds
from graysam.imaging.zoom import Zoom


@dataclass(frozen=True)
class Item:
    """One image with its prompts: image (3,S,S) float32, boxes (N,4) float32 and masks (N,S,S) bool on the S grid.

    N is 0 for an image without labels. teacher_image: the image in a teacher's channels; None without a teacher, or
    where it takes the same ones. view: a name of exactly this image; None where it is not repeated.
    """

    key: str
    group: str
    modality: str
    image: Tensor
    boxes: Tensor
    masks: Tensor
    teacher_image: Tensor | None = None
    view: str | None = None


@dataclass
class Batch:
    """Several items, padded to the largest number of boxes.

    images (B,3,S,S) float32; boxes (B,N,4) float32; masks (B,N,S,S) bool; valid (B,N) bool, False where padded;
    teacher_images (B,3,S,S) float32 and views as in `Item`.
    """

    keys: list[str]
    groups: list[str]
    modalities: list[str]
    images: Tensor
    boxes: Tensor
    masks: Tensor
    valid: Tensor
    teacher_images: Tensor | None = None
    views: Sequence[str | None] = ()

    def to(self, *args: Any, **kwargs: Any) -> "Batch":
        """Move the tensors; Lightning calls it. A teacher's images stay where they are."""
        return replace(self, **{name: getattr(self, name).to(*args, **kwargs) for name in _TENSORS})

    def pin_memory(self) -> "Batch":
        """Pin the tensors; the DataLoader calls it when a GPU is used."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in _TENSORS})


_TENSORS = ("images", "boxes", "masks", "valid")


def collate(items: Sequence[Item]) -> Batch:
    """Stack items, padding boxes and masks with zeros to the largest number of prompts."""

    def padded(parts: list[Tensor]) -> Tensor:
        least = parts[0].new_zeros(1, *parts[0].shape[1:])  # one place also where no image has prompts
        return pad_sequence([*parts, least], batch_first=True)[:-1]

    teacher = [item.teacher_image for item in items]
    return Batch(
        keys=[item.key for item in items],
        groups=[item.group for item in items],
        modalities=[item.modality for item in items],
        images=torch.stack([item.image for item in items]),
        boxes=padded([item.boxes for item in items]),
        masks=padded([item.masks for item in items]),
        valid=padded([torch.ones(len(item.boxes), dtype=torch.bool) for item in items]),
        teacher_images=None if None in teacher else torch.stack(teacher),  # type: ignore[arg-type]
        views=[item.view for item in items],
    )


@dataclass(eq=False)
class Slices(Dataset[Item]):
    """Make items of a shard's samples.

    Args:
        reader: the shards.
        scheme: how channels are made.
        size: side of the input grid in pixels.
        teacher_scheme: a teacher's channels; None where there is no teacher, or it takes the same ones.
    """

    reader: ShardReader
    _: KW_ONLY
    scheme: Scheme
    size: int
    teacher_scheme: Scheme | None = None

    def _read(self, row: int) -> Sample:
        """Read a sample; ShardError if it was packed smaller than the grid."""
        sample = self.reader.read(row)
        height, width = sample.image.shape[:2]
        if max(height, width) < self.size and [height, width] != sample.meta["original_size"]:
            raise ShardError(
                f"sample {sample.key} is stored at {max(height, width)} px; required: {self.size} px or its original "
                f"size; pack again with size={self.size}"
            )
        return sample

    def _full_view(self, sample: Sample, labels: Sequence[int]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Return the image with its longest side on the grid, and the masks of the labels that are visible there."""
        image, masks = sample.image, {label: sample.mask(label) for label in labels}
        if max(image.shape[:2]) != self.size:
            image = resize_longest_side(image, self.size)
            masks = {label: resize_labels(mask, self.size) for label, mask in masks.items()}
        return image, {label: mask for label, mask in masks.items() if mask.any()}

    def _item(
        self, sample: Sample, image: np.ndarray, masks: Sequence[np.ndarray], boxes: Sequence[Box], view: str | None
    ) -> Item:
        """Return an item of a (changed) image or crop (H,W[,3]), with its objects' masks and boxes on the grid."""
        size = self.size
        schemes = [self.scheme] if self.teacher_scheme is None else [self.scheme, self.teacher_scheme]
        images = [torch.from_numpy(prepare_image(image, scheme, size, training=True)) for scheme in schemes]
        return Item(
            key=sample.key,
            group=sample.meta["group"],
            modality=sample.meta["modality"],
            image=images[0],
            boxes=torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4)),
            masks=torch.from_numpy(np.array([pad(mask, size) for mask in masks], bool).reshape(-1, size, size)),
            teacher_image=images[1] if len(images) > 1 else None,
            view=view,
        )

    def _prompt_box(self, sample: Sample, label: int) -> Box:
        """Return a label's tight native box on the grid, float32 (4,), by the rule of prediction."""
        height, width = sample.meta["original_size"]
        return boxes_to_grid([sample.meta["boxes_xyxy"][str(label)]], height, width, self.size)[0]


@dataclass(eq=False, kw_only=True)
class TrainingSlices(Slices):
    """Random prompts; indexed by `Draw`, so it holds no epoch and no state.

    Args:
        jitter: random change of the box.
        augmentations: changes of image and masks before the box is taken.
        boxes_per_image: prompts an image, of different labels; fewer where a slice or a crop has fewer labels.
        views: chooses between the whole image and a crop around a box.
    """

    jitter: Jitter
    augmentations: Sequence[Augmentation]
    boxes_per_image: int
    views: Views

    def __getitem__(self, draw: Draw) -> Item:
        rng = np.random.default_rng(draw.seed)
        fixed_rng = rng if draw.view is None else np.random.default_rng((draw.seed[0], draw.row, draw.view))
        # A stream of its own: whole images are the same with and without crops between them.
        crop_rng = fixed_rng.spawn(1)[0]
        sample, rule = self._read(draw.row), self.views(crop_rng)
        view = None if draw.view is None else f"{draw.row}-{sample.key}-{draw.view}"
        if rule is not None and (item := self._crop(sample, rule, view, crop_rng)):
            return item
        count = min(self.boxes_per_image, len(sample.labels))
        labels = fixed_rng.choice(sample.labels, count, replace=False).tolist() if count else []
        image, visible = self._full_view(sample, labels)
        masks = stored = list(visible.values())
        for augmentation in self.augmentations:
            image, masks = augmentation(image, masks, fixed_rng)
        # Where an augmentation moved the objects, the native boxes no longer hold.
        moved = any(new is not old for new, old in zip(masks, stored, strict=True))
        tight: list[Box] = [np.array(mask_bounds(mask), np.float32) for mask in masks]  # no augmentation empties one
        if not moved:
            tight = [self._prompt_box(sample, label) for label in visible]
        height, width = image.shape[:2]
        boxes = [self.jitter(box, height, width, rng) for box in tight]
        return self._item(sample, image, masks, boxes, view)

    def _crop(self, sample: Sample, rule: Zoom, view: str | None, rng: np.random.Generator) -> Item | None:
        """Return an item of a crop around one label, or None where the whole image is shown instead.

        The augmented stored image is cropped, so that the crop has all its pixels. Boxes are part of the view: one
        decides the window.
        """
        count = min(self.boxes_per_image, len(sample.stored_labels))
        if not count:
            return None
        labels = rng.choice(sample.stored_labels, count, replace=False).tolist()
        image, masks = sample.image, [sample.mask(label) for label in labels]
        for augmentation in self.augmentations:
            image, masks = augmentation(image, masks, rng)
        enlarged = max(image.shape[:2]) / max(sample.meta["original_size"])
        crop = draw_crop(image, masks, rule, enlarged=enlarged, size=self.size, jitter=self.jitter, rng=rng)
        if crop is None:
            return None
        window = crop.view
        name = f"{view}-{window.left}-{window.top}-{window.right}-{window.bottom}"
        return self._item(sample, window.crop(image), crop.masks, crop.boxes, None if view is None else name)


@dataclass(eq=False)
class FixedSlices(Slices):
    """Validation: every row once, tight boxes, nothing random.

    Args:
        rows: rows of the index, in the order given.
        max_boxes_per_image: most labels of a slice, evenly spread over its sorted labels; None for all.
    """

    rows: np.ndarray
    _: KW_ONLY
    max_boxes_per_image: int | None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Item:
        sample = self._read(int(self.rows[i]))
        labels = list(sample.labels)
        if self.max_boxes_per_image is not None and len(labels) > self.max_boxes_per_image:
            spread = np.linspace(0, len(labels) - 1, self.max_boxes_per_image).round().astype(int)
            labels = [labels[place] for place in spread]
        image, masks = self._full_view(sample, labels)
        boxes = [self._prompt_box(sample, label) for label in masks]
        return self._item(sample, image, list(masks.values()), boxes, view=f"val-{sample.key}")
