"""Views: maps there and back, windows at borders, sharing, and the full view as the special case of none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graysam.imaging.canvas import Canvas, boxes_to_grid
from graysam.imaging.masks import mask_to_native, positive_bounds
from graysam.imaging.views import View, Zoom, full_view, load_zoom

ALWAYS = Zoom(contexts={1 << 30: 2.0}, min_window_px=1, max_enlargement=256.0, growth=1.0, max_views=32)
SHARED = Zoom(contexts={64: 2.0}, min_window_px=16, max_enlargement=8.0, growth=2.0, max_views=4)


@st.composite
def images_and_boxes(draw, most=1):
    height, width = draw(st.integers(1, 700)), draw(st.integers(1, 700))
    boxes = []
    for _ in range(draw(st.integers(1, most))):
        x, y = (
            sorted(draw(st.tuples(*[st.integers(0, width)] * 2))),
            sorted(draw(st.tuples(*[st.integers(0, height)] * 2))),
        )
        boxes.append([min(x[0], width - 1), min(y[0], height - 1), x[1], y[1]])
    return height, width, boxes


@given(images_and_boxes(), st.sampled_from([1.0, 0.4, 3.0]), st.floats(1, 5))
@settings(max_examples=300, deadline=None)
def test_a_window_lies_in_the_image_around_its_box(image, aspect, context):
    height, width, [box] = image
    full = full_view(height, width, 256, aspect)
    rule = Zoom(contexts={1 << 30: context}, min_window_px=1, max_enlargement=256.0, growth=1.0, max_views=1)
    [view] = rule.plan([box], full)
    assert 0 <= view.left < view.right <= width
    assert 0 <= view.top < view.bottom <= height
    assert view.left <= box[0] and view.top <= box[1] and view.right > min(box[2], width - 1)
    assert view.bottom > min(box[3], height - 1)
    if view != full:
        side = max(view.right - view.left, (view.bottom - view.top) * aspect)
        longer = max(box[2] - box[0] + 1, (box[3] - box[1] + 1) * aspect)
        assert side >= min(context * longer, max(width, height * aspect)) - max(1, aspect)
        assert side < context * longer + 2 + aspect


@given(images_and_boxes(), st.sampled_from([1.0, 0.4, 3.0]))
@settings(max_examples=200, deadline=None)
def test_points_map_there_and_back(image, aspect):
    height, width, [box] = image
    for view in (full_view(height, width, 256, aspect), *ALWAYS.plan([box], full_view(height, width, 256, aspect))):
        points = np.reshape(box, (2, 2)).astype(float)
        np.testing.assert_allclose(view.to_native(view.to_grid(points)), points, atol=1e-9)
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


def test_windows_by_hand():
    full = full_view(512, 512, 256)
    assert SHARED.plan([[100, 100, 119, 109]], full) == [View(90, 85, 130, 125, 256)]  # 20 px long: 40 px
    assert SHARED.plan([[0, 508, 3, 511]], full) == [View(0, 480, 32, 512, 256)]  # 256 / 8 px, moved into the image
    assert SHARED.plan([[0, 0, 200, 40]], full) == [full]  # 201 px are 100 on the grid, above 64
    narrow = full_view(20, 512, 256)
    assert SHARED.plan([[100, 5, 129, 9]], narrow) == [View(85, 0, 145, 20, 256)]
    flat = full_view(100, 512, 256, 4.0)  # rows 4 px high
    assert SHARED.plan([[100, 50, 119, 54]], flat) == [View(90, 48, 130, 58, 256, 4.0)]


def test_neighbours_share_a_view_and_others_do_not():
    full = full_view(1000, 1000, 256)
    boxes = [[100, 100, 129, 129], [130, 100, 159, 129], [800, 800, 829, 829]]
    first, second, third = SHARED.plan(boxes, full)
    assert first == second
    assert first.left <= 85 and first.right >= 175  # both boxes' own windows
    assert third == View(785, 785, 845, 845, 256)
    assert all(SHARED.suits(view, box, full) for view, box in zip((first, second, third), boxes, strict=True))
    assert not SHARED.suits(third, boxes[0], full)
    assert not SHARED.suits(full, boxes[0], full)


@given(images_and_boxes(most=60))
@settings(max_examples=100, deadline=None)
def test_views_are_bounded_and_hold_their_boxes(image):
    height, width, boxes = image
    full = full_view(height, width, 256)
    views = SHARED.plan(boxes, full)
    assert len(set(views)) <= SHARED.max_views
    for view, (x_min, y_min, x_max, y_max) in zip(views, boxes, strict=True):
        assert view.left <= x_min and view.top <= y_min
        assert view.right > min(x_max, width - 1) and view.bottom > min(y_max, height - 1)


def test_no_boxes_need_no_view():
    assert ALWAYS.plan(np.zeros((0, 4)), full_view(10, 10, 256)) == []


def test_choices():
    assert load_zoom("off") is None
    rule = load_zoom("auto")
    assert load_zoom(2).contexts == load_zoom("2").contexts == {1 << 30: 2.0}
    assert load_zoom("2.5").max_views == rule.max_views
    for wrong in ("", "on", "0.5", "nan", "inf", 0, -1):
        with pytest.raises(ValueError, match=r"zoom is .*; required: "):
            load_zoom(wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"max_views": 0}, {"growth": 0.5}, {"min_window_px": math.nan}, {"contexts": {64: 0.5}}, {"max_views": True}],
)
def test_a_rule_out_of_range_is_refused(wrong):
    parameters = {"contexts": {}, "min_window_px": 1, "max_enlargement": 1, "growth": 1, "max_views": 1} | wrong
    with pytest.raises(ValueError, match="required: a number of at least 1"):
        Zoom(**parameters)
