"""Prompt boxes: tight, jittered as stated, always inside the image."""

import numpy as np
import pytest

from graysam.data.augment import CropShift, Flip, NoJitter, OutwardJitter, PositionSizeJitter, SideJitter
from graysam.imaging.prompts import mask_bounds


def test_mask_bounds_are_inclusive() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[3:5, 7:11] = True
    assert mask_bounds(mask) == (7, 3, 10, 4)


def test_outward_jitter_moves_each_side_outwards_by_up_to_the_limit() -> None:
    rng, box = np.random.default_rng(0), np.array([50, 60, 70, 80], dtype=np.float32)
    moved = np.array([OutwardJitter(max_px=5)(box, 256, 256, rng) for _ in range(400)]) - box
    assert set(moved[:, 0]) == set(moved[:, 1]) == {0, -1, -2, -3, -4, -5}
    assert set(moved[:, 2]) == set(moved[:, 3]) == {0, 1, 2, 3, 4, 5}
    assert not np.array_equal(-moved[:, 0], moved[:, 2])  # each side on its own


def test_position_size_jitter_does_both_and_keeps_a_pixel() -> None:
    rng, box = np.random.default_rng(0), np.array([50, 60, 149, 159], dtype=np.float32)
    jitter = PositionSizeJitter(shift=0.1, scale=0.2)
    moved = np.array([jitter(box, 256, 256, rng) for _ in range(400)])
    centre, side = (moved[:, :2] + moved[:, 2:]) / 2, moved[:, 2:] - moved[:, :2] + 1
    assert np.ptp(centre[:, 0]) > 15
    assert abs(centre - [99.5, 109.5]).max() <= 10.5
    assert 79 <= side.min() < 90
    assert 110 < side.max() <= 121
    dots = [jitter(np.zeros(4, np.float32), 256, 256, rng) for _ in range(50)]
    assert all((dot[:2] <= dot[2:]).all() for dot in dots)


@pytest.mark.parametrize(
    "jitter",
    [
        OutwardJitter(max_px=5),
        PositionSizeJitter(shift=0.5, scale=0.9),
        NoJitter(),
        SideJitter(outwards=0.9, inwards=0.4),
    ],
)
def test_boxes_stay_inside_the_unpadded_image(jitter: object) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        box = jitter(np.array([0, 0, 99, 255], dtype=np.float32), 256, 100, rng)  # type: ignore[operator]
        assert box.dtype == np.float32
        assert (box >= 0).all()
        assert box[2] <= 99
        assert box[3] <= 255


def scene() -> tuple[np.ndarray, list[np.ndarray]]:
    image = np.zeros((100, 256), dtype=np.uint8)
    mask = np.zeros((100, 256), dtype=bool)
    mask[20:50, 40:90] = True
    image[mask] = 200
    return image, [mask]


def test_flip_moves_image_and_mask_together() -> None:
    image, masks = scene()
    flipped, flipped_masks = Flip(horizontal=1.0, vertical=0.0)(image, masks, np.random.default_rng(0))
    assert np.array_equal(flipped, image[:, ::-1])
    assert np.array_equal(flipped_masks[0], masks[0][:, ::-1])
    both, _ = Flip(horizontal=1.0, vertical=1.0)(image, masks, np.random.default_rng(0))
    assert np.array_equal(both, image[::-1, ::-1])
    assert Flip(horizontal=0.0, vertical=0.0)(image, masks, np.random.default_rng(0))[0] is image


def test_crop_shift_moves_image_and_mask_together_and_keeps_objects_visible() -> None:
    image, masks = scene()
    rng = np.random.default_rng(0)
    change = CropShift(probability=1.0, min_zoom=0.7, max_zoom=1.6, max_shift=0.4, min_visible=0.6)
    places = set()
    for _ in range(60):
        moved, moved_masks = change(image, masks, rng)
        assert moved.shape == image.shape
        assert moved_masks[0].any()
        overlap = ((moved > 100) & moved_masks[0]).sum() / ((moved > 100) | moved_masks[0]).sum()
        assert overlap > 0.9
        places.add(mask_bounds(moved_masks[0]))
    assert len(places) > 20


def test_side_jitter_moves_each_side_on_its_own_and_further_outwards() -> None:
    rng, box = np.random.default_rng(0), np.array([50, 60, 149, 109], dtype=np.float32)  # 100 x 50
    jitter = SideJitter(outwards=0.2, inwards=0.05)
    moved = np.array([jitter(box, 256, 256, rng) for _ in range(2000)]) - box
    assert (moved.min(axis=0).tolist(), moved.max(axis=0).tolist()) == ([-20, -10, -5, -2], [5, 2, 20, 10])
    assert not np.array_equal(-moved[:, 0], moved[:, 2])
    dots = [jitter(np.full(4, 7, np.float32), 256, 256, rng).tolist() for _ in range(50)]
    assert dots == [[7, 7, 7, 7]] * 50
