"""Views: maps there and back, and the full view as the special case of none."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graysam.imaging.canvas import Canvas, boxes_to_grid
from graysam.imaging.masks import mask_to_native, positive_bounds
from graysam.imaging.views import View, full_view


@st.composite
def windows(draw):
    left, right = sorted(draw(st.tuples(*[st.integers(0, 700)] * 2)))
    top, bottom = sorted(draw(st.tuples(*[st.integers(0, 700)] * 2)))
    return View(left, top, right + 1, bottom + 1, 256, draw(st.sampled_from([1.0, 0.4, 3.0])))


@given(windows(), st.integers(-50, 800), st.integers(-50, 800))
@settings(max_examples=200, deadline=None)
def test_points_map_there_and_back(view, x, y):
    np.testing.assert_allclose(view.to_native(view.to_grid([[x, y]])), [[x, y]], atol=1e-9)
    corners = view.to_grid([[view.left - 0.5, view.top - 0.5], [view.right - 0.5, view.bottom - 0.5]])
    valid = [view.canvas.resized_width - 0.5, view.canvas.resized_height - 0.5]
    np.testing.assert_allclose(corners, [[-0.5, -0.5], valid], atol=1e-9)  # edges on edges


def test_the_full_view_is_the_image_as_before():
    full = full_view(300, 200, 256)
    boxes = np.array([[0, 0, 200, 300], [17, 3, 101, 299]])
    np.testing.assert_array_equal(full.boxes_to_grid(boxes), boxes_to_grid(boxes, 300, 200, 256))
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    pasted = np.zeros((300, 200), bool)
    for rows, columns, mask in full.native_blocks(logits, positive_bounds(logits, full.canvas)):
        pasted[rows, columns] = mask
    np.testing.assert_array_equal(pasted, mask_to_native(logits, Canvas(300, 200, 256)))


@given(st.integers(0, 60), st.integers(0, 40), st.integers(1, 40), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_a_window_is_an_image_of_its_own(left, top, width, height):
    view = View(left, top, left + width, top + height, 64)
    image = np.random.default_rng(0).integers(0, 255, (100, 100), np.uint8)
    crop = view.crop(image)
    np.testing.assert_array_equal(crop, image[top : top + height, left : left + width])
    box = np.array([[left, top, left + width - 1, top + height - 1]])
    np.testing.assert_array_equal(
        view.boxes_to_grid(box), boxes_to_grid([[0, 0, width - 1, height - 1]], height, width, 64)
    )
    logits = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    pasted = np.zeros((100, 100), bool)
    for rows, columns, mask in view.native_blocks(logits, positive_bounds(logits, view.canvas)):
        pasted[rows, columns] = mask
    expected = np.zeros((100, 100), bool)
    expected[top : top + height, left : left + width] = mask_to_native(logits, Canvas(height, width, 64))
    np.testing.assert_array_equal(pasted, expected)


def test_logits_at_native_pixels_have_the_masks_sign():
    view = View(10, 20, 71, 55, 64)
    logits = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    pasted = np.zeros((100, 100), bool)
    for rows, columns, mask in view.native_blocks(logits, positive_bounds(logits, view.canvas)):
        pasted[rows, columns] = mask
    np.testing.assert_array_equal(view.native_logits(logits) > 0, view.crop(pasted))


def test_logits_move_from_one_view_to_another():
    full, view = full_view(512, 512, 256), View(128, 64, 256, 192, 256)
    rows, columns = np.mgrid[:256, :256].astype(np.float32)
    ramp = 2 * columns - 3 * rows  # linear, so that interpolation is exact within the grid
    moved = full.resample(ramp, view)
    x, y = full.to_grid(view.to_native([[17, 93]]))[0]
    assert moved.shape == (256, 256)
    np.testing.assert_allclose(moved[93, 17], 2 * x - 3 * y, rtol=1e-5)
    np.testing.assert_array_equal(full.resample(ramp, full), ramp)
    enlarged = cv2.resize(ramp, (512, 512), interpolation=cv2.INTER_LINEAR)  # of two grid pixels a native one
    np.testing.assert_allclose(
        view.resample(moved, full_view(512, 512, 256))[40:80, 80:120], ramp[40:80, 80:120], atol=1
    )
    assert np.isfinite(enlarged).all()
