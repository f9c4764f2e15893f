"""Masks on the image: goldens, masks computed by hand, and equality with the interpolation of every pixel."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from graysam.imaging.canvas import Canvas
from graysam.imaging.masks import (
    BLOCK_PIXELS,
    box_from_mask,
    grow_bounds,
    mask_to_native,
    native_blocks,
    positive_bounds,
)
from graysam.imaging.prompts import mask_bounds


def samples(native: int, valid_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the grid pixels below and above every native pixel's centre, and the weight of the upper one."""
    position = ((np.arange(native) + 0.5) * valid_size / native - 0.5).clip(0, valid_size - 1)
    lower = np.floor(position).astype(int)
    return lower, np.minimum(lower + 1, valid_size - 1), (position - lower).astype(np.float32)


def whole_mask(logits: np.ndarray, canvas: Canvas) -> np.ndarray:
    """Interpolate every pixel of the image, in the module's order of float32 operations."""
    (left, right, x), (above, below, y) = (
        samples(canvas.width, canvas.resized_width),
        samples(canvas.height, canvas.resized_height),
    )
    rows = logits[:, left] + x * (logits[:, right] - logits[:, left])
    return y[:, None] * (rows[below] - rows[above]) > -rows[above]


@pytest.mark.parametrize("name", ["corner", "br", "mid", "pix"])
@pytest.mark.parametrize("margin", [0, 3])
def test_box_from_mask_matches_goldens(golden: dict[str, np.ndarray], name: str, margin: int) -> None:
    y0, y1, x0, x1 = golden[f"bbox256_{name}__rect_y0y1x0x1"]
    mask = np.zeros((256, 256), bool)
    mask[y0:y1, x0:x1] = True
    expected = golden[f"bbox256_{name}__out_shift{margin}"]
    np.testing.assert_array_equal(box_from_mask(mask, margin, limit=256), expected)


def test_boxes_are_inclusive_and_clipped() -> None:
    mask = np.zeros((9, 12), np.uint8)
    assert box_from_mask(mask, 3, limit=11) is None
    mask[2, 3] = mask[5, 10] = 7
    assert mask_bounds(mask) == (3, 2, 10, 5)
    assert grow_bounds((3, 2, 10, 5), 2, (2, 0, 11, 8)).tolist() == [2, 0, 11, 7]


def test_positive_bounds_are_those_of_the_image_alone() -> None:
    logits = np.full((256, 256), -1, np.float32)
    canvas = Canvas(100, 200, 256)
    logits[128:] = 1  # the padding
    assert positive_bounds(logits, canvas) is None
    assert not mask_to_native(logits, canvas).any()
    logits[127, 250] = 1
    assert positive_bounds(logits, canvas) == (250, 127, 250, 127)


def test_a_mask_by_hand() -> None:
    """An image of half the grid's size samples between 4 grid pixels, one of twice the size at their quarters."""
    logits = np.full((4, 4), -1, np.float32)
    logits[1, 1] = 4  # the mean with three of its neighbours is above 0
    assert mask_to_native(logits, Canvas(2, 2, 4)).astype(int).tolist() == [[1, 0], [0, 0]]
    logits[1, 1] = 1  # positive where the product of the weights of (1, 1) exceeds a half: 3/4 * 3/4, not 3/4 * 1/4
    inside = np.zeros((8, 8), bool)
    inside[2:4, 2:4] = True
    np.testing.assert_array_equal(mask_to_native(logits, Canvas(8, 8, 4)), inside)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    sides=st.tuples(*[st.one_of(st.integers(1, 40), st.integers(200, 700))] * 2),
    size=st.sampled_from([8, 64, 256]),
    filled=st.sampled_from(["nothing", "pixel", "few", "noise", "disc", "all", "tiny"]),
)
def test_only_where_a_mask_can_be_is_as_good_as_everywhere(
    seed: int, sides: tuple[int, int], size: int, filled: str
) -> None:
    rng = np.random.default_rng(seed)
    canvas = Canvas(*sides, size)
    logits = -np.abs(rng.standard_normal((size, size))).astype(np.float32)
    y, x = rng.integers(0, canvas.resized_height), rng.integers(0, canvas.resized_width)
    if filled == "pixel":
        logits[y, x] = rng.exponential(30)
    elif filled == "few":
        logits[rng.random(logits.shape) < 3 / logits.size] *= -9
    elif filled == "noise":
        logits *= rng.choice([-1, 0, 1], logits.shape)
    elif filled == "disc":
        rows, columns = np.ogrid[:size, :size]
        logits += 2 * ((rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(0, size / 2) ** 2)
    elif filled == "all":
        logits *= -1
    elif filled == "tiny":  # products of such numbers vanish, and zeros have two signs
        logits *= rng.choice([-1e-44, -1e-38, -0.0, 0.0, 1e-38, 1e-44], logits.shape).astype(np.float32)
    expected = whole_mask(logits, canvas)
    np.testing.assert_array_equal(mask_to_native(logits, canvas), expected)
    visits = np.zeros(sides, int)
    for rows, columns, block in native_blocks(logits, canvas, positive_bounds(logits, canvas)):
        assert block.shape == visits[rows, columns].shape
        visits[rows, columns] += 1
    assert visits.max(initial=0) <= 1
    assert visits[expected].all()


def test_large_masks_come_in_blocks() -> None:
    canvas = Canvas(605, 806, 256)
    logits = np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32)
    logits[0, 0] = logits[canvas.resized_height - 1, canvas.resized_width - 1] = 1
    blocks = [block for _, _, block in native_blocks(logits, canvas, positive_bounds(logits, canvas))]
    assert len(blocks) > 1 and max(block.size for block in blocks) <= BLOCK_PIXELS
    assert sum(block.size for block in blocks) == 605 * 806
    np.testing.assert_array_equal(mask_to_native(logits, canvas), whole_mask(logits, canvas))


def test_a_small_mask_touches_a_small_part() -> None:
    logits = np.full((256, 256), -1, np.float32)
    logits[100:104, 50:60] = 1
    canvas = Canvas(1920, 2560, 256)
    (block,) = native_blocks(logits, canvas, positive_bounds(logits, canvas))
    assert (block[0], block[1]) == (slice(995, 1045), slice(495, 605))  # a grid pixel more a side, from its centre
    assert list(native_blocks(-np.abs(logits), canvas, None)) == []
    assert not mask_to_native(np.where(np.arange(256) == 51, logits, -1), Canvas(3, 3, 256)).any(), "missed by a pixel"
