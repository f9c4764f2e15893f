"""Crops around boxes in training: what they show, that they are prediction's windows, and that draws reproduce."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from graysam.data.augment import CropShift, Flip, NoJitter, OutwardJitter, PositionSizeJitter
from graysam.data.datamodule import ShardDataModule
from graysam.data.dataset import FixedSlices, Item, TrainingSlices
from graysam.data.packing import pack as pack_source
from graysam.data.sampling import Draw
from graysam.data.shards import ShardReader
from graysam.data.sources import ImageSource
from graysam.data.views import FullViews, MixedViews, draw_crop
from graysam.imaging.canvas import boxes_to_grid, prepare_image
from graysam.imaging.channels import load_scheme, scheme_names
from graysam.imaging.prompts import mask_bounds
from graysam.imaging.zoom import Look, Zoom
from graysam.inference.segmentation import Segmentation
from tests.data.test_sampling import epoch_batches, module
from tests.support.exported_models import Spy
from tests.support.packing import pack, picture, save

SCHEME = load_scheme("replicate")
ALWAYS = MixedViews(probability=1, min_context=2, max_context=2, min_image_px=96, max_enlargement=8)
MIXED = replace(ALWAYS, probability=0.5, min_context=1.3, max_context=4)
HEIGHT, WIDTH = 400, 500
TINY, OUTER = 3, 4  # labels: one too small for 256 px, one far from the others


@pytest.fixture
def native(tmp_path: Path) -> ShardReader:
    """Shards of three images at their own size, each with four objects, and of a small image with one."""
    gts = np.zeros((HEIGHT, WIDTH), np.uint8)
    gts[200:220, 100:140], gts[225:235, 110:120], gts[300, 300], gts[20:60, 440:499] = 1, 2, TINY, OUTER
    small = np.zeros((95, 60), np.uint8)
    small[40:48, 20:30] = 1
    for i in range(3):
        save(tmp_path / "raw" / f"US_a_{i}.npz", imgs=picture(i, HEIGHT, WIDTH), gts=gts)
    save(tmp_path / "raw" / "US_small_1.npz", imgs=picture(9, 95, 60), gts=small)
    pack(tmp_path / "raw", tmp_path / "native", size="native", val_fraction=0)
    return ShardReader(tmp_path / "native")


def training(reader: ShardReader, **changes: Any) -> TrainingSlices:
    given: dict[str, Any] = {"scheme": SCHEME, "size": 256, "jitter": NoJitter(), "augmentations": ()}
    return TrainingSlices(reader, **{**given, "boxes_per_image": 1, "views": ALWAYS, **changes})


def same(left: Item, right: Item) -> bool:
    names = ("image", "boxes", "masks")
    return left.view == right.view and all(getattr(left, name).equal(getattr(right, name)) for name in names)


# ------------------------------------------------------------------ whole images
@pytest.mark.parametrize("view", [None, 3])
@pytest.mark.parametrize("augmented", [False, True])
def test_full_views_are_what_training_has_always_drawn(toy_shards: Path, view: int | None, augmented: bool) -> None:
    reader, jitter = ShardReader(toy_shards), OutwardJitter(max_px=5)
    augmentations = [Flip(horizontal=0.5, vertical=0.5)] if augmented else []
    slices = training(reader, views=FullViews(), jitter=jitter, augmentations=augmentations, boxes_per_image=2)
    for row in range(len(reader)):
        draw, sample = Draw(row, (0, 1, row), view), reader.read(row)
        rng = np.random.default_rng(draw.seed)
        fixed_rng = rng if view is None else np.random.default_rng((0, row, view))
        labels = fixed_rng.choice(sample.labels, min(2, len(sample.labels)), replace=False).tolist()
        image, masks = sample.image, [sample.mask(label) for label in labels]
        boxes = boxes_to_grid([sample.meta["boxes_xyxy"][str(label)] for label in labels], 256, 256, 256)
        for augmentation in augmentations:
            image, masks = augmentation(image, masks, fixed_rng)
            boxes = np.array([mask_bounds(mask) for mask in masks], np.float32)
        item = slices[draw]
        assert np.array_equal(item.image, prepare_image(image, SCHEME, 256))
        assert np.array_equal(item.masks, masks)
        assert np.array_equal(item.boxes, [jitter(box, 256, 256, rng) for box in boxes])
        assert item.view == (None if view is None else f"{row}-{sample.key}-3")


def test_whole_images_among_crops_are_the_same(native: ShardReader) -> None:
    options: dict[str, Any] = {"jitter": OutwardJitter(max_px=5), "augmentations": [Flip(horizontal=0.5, vertical=0.5)]}
    draws = [Draw(0, (0, 0, place)) for place in range(40)]
    full, mixed = ([training(native, views=views, **options)[draw] for draw in draws] for views in (FullViews(), MIXED))
    equal = sum(same(*pair) for pair in zip(full, mixed, strict=True))
    assert 10 < equal < 30
    never = replace(MIXED, probability=0)
    assert all(same(training(native, views=never, **options)[draw], full[place]) for place, draw in enumerate(draws))


# ------------------------------------------------------------------ crops
def test_a_crop_is_where_it_is_computed_by_hand(native: ShardReader) -> None:
    """The box is 40 px wide, so the window is 80 px: x from 80, y from 170, and 3.2 grid pixels a pixel."""
    slices = training(native, boxes_per_image=4)
    found = {}
    for place in range(60):
        item = slices[Draw(0, (place, 0, 0), 0)]
        assert item.view is not None
        found[item.view] = item
    item = found["0-US_a_0-0-80-170-160-250"]
    image = native.read(0).image
    assert np.array_equal(item.image, prepare_image(image[170:250, 80:160], SCHEME, 256))
    boxes = {tuple(box.tolist()): mask for box, mask in zip(item.boxes, item.masks, strict=True)}
    assert set(boxes) == {(64, 96, 188, 156), (96, 176, 124, 204)}, "the two objects inside"
    expected = np.zeros((256, 256), bool)
    expected[96:160, 64:192] = True
    assert np.array_equal(boxes[64, 96, 188, 156], expected)
    # the object at the edge: 59 px, a window of 118 px, moved into the image
    assert found["0-US_a_0-0-382-0-500-118"].boxes[0].tolist() == [125, 43, 251, 128]
    # one pixel, which 256 px do not show: the smallest window is 256 / 8 px
    assert found["0-US_a_0-0-285-285-317-317"].masks.sum() == 64
    assert len(found) == 4


@pytest.mark.parametrize("channels", sorted(set(scheme_names()) - {"released"}))  # that one differs on purpose
def test_crops_of_512_px_shards_are_the_windows_of_prediction(tmp_path: Path, channels: str) -> None:
    gts = np.zeros((300, 512), np.uint8)
    gts[40:67, 200:233] = 1
    save(tmp_path / "raw" / "US_a_1.npz", imgs=picture(0, 300, 512, 3), gts=gts)
    pack(tmp_path / "raw", tmp_path / "512", size=512, val_fraction=0)
    scheme, spy = load_scheme(channels), Spy()
    look = Look(up_to_px=999, context=2, weight=1.0)
    rule = Zoom(looks=(look,), min_image_px=96, max_enlargement=8, growth=1.5, max_views=9)
    with np.load(tmp_path / "raw" / "US_a_1.npz", allow_pickle=False) as case:
        Segmentation(case["imgs"], [[200, 40, 232, 66]], spy, scheme, zoom=rule).labels()
    item = training(ShardReader(tmp_path / "512"), scheme=scheme)[Draw(0, (0, 0, 0))]
    assert np.array_equal(item.image, spy.images[0])
    assert np.array_equal(item.boxes, np.stack(spy.boxes))


def test_the_window_surrounds_the_jittered_box(native: ShardReader) -> None:
    centres = set()
    for place in range(60):
        item = training(native, jitter=PositionSizeJitter(shift=0.3, scale=0.3))[Draw(0, (0, 0, place), place)]
        x_min, y_min, x_max, y_max = item.boxes[0].tolist()
        left, _, right, bottom = map(int, item.view.split("-")[-4:])  # type: ignore[union-attr]
        if left > 0 and right < WIDTH and bottom - 1 < HEIGHT and right - left > 32:
            assert abs(max(x_max - x_min, y_max - y_min) - 128) <= 8, "half of the window"
            assert abs(x_min + x_max - 256) < 16
            centres.add((left, right))
    assert len(centres) > 5


def lost(box: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    return np.array([0, 0, 9, 9], np.float32)


def test_where_a_crop_shows_nothing_of_its_object_the_whole_image_is_shown(native: ShardReader) -> None:
    for place in range(10):
        draw = Draw(0, (0, 0, place))
        item = training(native, jitter=lost)[draw]
        assert same(item, training(native, jitter=lost, views=FullViews())[draw])
        assert item.masks.any()


def test_a_large_box_or_a_small_image_is_shown_whole(native: ShardReader, tmp_path: Path) -> None:
    """Also where packing has enlarged the small image."""
    large = replace(ALWAYS, min_context=20, max_context=20, probability=1)
    draws = [Draw(0, (0, 0, place)) for place in range(20)]
    shown = [training(native, views=large)[draw] for draw in draws]
    assert any(same(item, training(native, views=FullViews())[draw]) for item, draw in zip(shown, draws, strict=True))
    pack(tmp_path / "raw", tmp_path / "256", val_fraction=0)
    for reader in (native, ShardReader(tmp_path / "256")):
        assert reader.keys[3] == "US_small_1"
        draw = Draw(3, (0, 0, 0))
        assert same(training(reader)[draw], training(reader, views=FullViews())[draw])


def test_an_enlarged_image_is_not_enlarged_further_than_its_original() -> None:
    image, mask = picture(0, 256, 256), np.zeros((256, 256), bool)
    mask[100:104, 100:104] = True
    options: dict[str, Any] = {"size": 256, "jitter": NoJitter(), "rng": np.random.default_rng(0)}
    rule = ALWAYS(np.random.default_rng(0))
    assert rule is not None
    for enlarged, side in ((0.5, 32), (1.0, 32), (2.0, 64)):  # 32 pixels of the original
        crop = draw_crop(image, [mask], rule, enlarged=enlarged, **options)
        assert crop is not None and crop.view.right - crop.view.left == side
    assert draw_crop(image, [mask], rule, enlarged=3.0, **options) is None, "an image of 85 px"


def test_augmentations_precede_the_crop(native: ShardReader) -> None:
    flipped = training(native, augmentations=[Flip(horizontal=1, vertical=0)])
    views = {flipped[Draw(0, (place, 0, 0), 0)].view for place in range(40)}
    assert f"0-US_a_0-0-{WIDTH - 160}-170-{WIDTH - 80}-250" in views
    moved = CropShift(probability=1, min_zoom=0.8, max_zoom=1.5, max_shift=0.2, min_visible=0.6)
    for place in range(20):
        item = training(native, augmentations=[moved], boxes_per_image=3)[Draw(0, (0, 0, place))]
        for box, mask in zip(item.boxes.tolist(), item.masks.numpy(), strict=True):
            bounds = mask_bounds(mask)
            assert bounds is not None and np.abs(np.subtract(bounds, box)).max() <= 8  # 8 grid pixels a pixel


def test_released_channels_are_built_on_the_padded_crop(native: ShardReader) -> None:
    item = training(native, scheme=load_scheme("released"))[Draw(0, (0, 0, 1), 1)]
    left, top, right, bottom = map(int, item.view.split("-")[-4:])  # type: ignore[union-attr]
    crop = native.read(0).image[top:bottom, left:right]
    assert np.array_equal(item.image, prepare_image(crop, load_scheme("released", built_on="padded"), 256))


def test_images_without_masks_are_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "1.png"), picture(0, 700, 300))
    pack_source(ImageSource(folder=tmp_path / "in", size="native"), tmp_path / "out", samples_per_shard=9, split=None)
    item = training(ShardReader(tmp_path / "out"))[Draw(0, (0, 0, 0))]
    assert np.array_equal(item.image, prepare_image(picture(0, 700, 300), SCHEME, 256))
    assert len(item.boxes) == 0


def test_validation_shows_whole_images_and_tight_boxes(native: ShardReader) -> None:
    rows = np.array([0])
    item = FixedSlices(native, rows, scheme=SCHEME, size=256, max_boxes_per_image=None)[0]
    assert np.array_equal(item.image, prepare_image(native.read(0).image, SCHEME, 256))
    assert len(item.boxes) == 3, "without the label that 256 px do not show"


# ------------------------------------------------------------------ draws
Build = Callable[..., ShardDataModule]


@pytest.fixture
def data(native: ShardReader) -> Build:
    """Return a function that builds a data module of these shards."""
    options = {"views": MIXED, "boxes_per_image": 2, "jitter": PositionSizeJitter(shift=0.1, scale=0.2)}
    return lambda **changes: module(native.folders[0], **{"samples_per_group": 12, **options, **changes})


def test_workers_and_resuming_do_not_change_crops(data: Build) -> None:
    whole = epoch_batches(data(), 1)
    for left, right in zip(whole, epoch_batches(data(num_workers=2), 1), strict=True):
        assert left.images.equal(right.images) and left.boxes.equal(right.boxes) and left.masks.equal(right.masks)
    loader: Any = data().train_dataloader()
    loader.load_state_dict({"draws": 4})
    loader.sampler.set_epoch(1)
    resumed = list(loader)
    assert len(resumed) == len(whole) - 1
    for left, right in zip(whole[1:], resumed, strict=True):
        assert left.images.equal(right.images) and left.boxes.equal(right.boxes) and left.masks.equal(right.masks)


def test_a_views_name_is_that_of_one_image(data: Build) -> None:
    """In all epochs, and with crops and without."""
    images: dict[str, torch.Tensor] = {}
    for views in (MIXED, FullViews(), replace(MIXED, min_context=2)):
        for epoch in range(3):
            for batch in epoch_batches(data(views=views, views_per_group=16), epoch):
                for view, image in zip(batch.views, batch.images, strict=True):
                    assert images.setdefault(view, image).equal(image)
    assert len({view for view in images if view.count("-") > 2}) > 3
    assert None not in images


@pytest.mark.parametrize(
    "changes",
    [
        {"probability": 1.5},
        {"min_context": 0.5},
        {"min_context": 3, "max_context": 2},
        {"max_enlargement": 0},
        {"min_image_px": 0},
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        MixedViews(**{**vars(MIXED), **changes})
