"""Which views boxes get: windows at borders, sharing, and the presets."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graysam.imaging.views import View, full_view
from graysam.imaging.zoom import Look, Zoom, load_zoom, zoom_names


def rule(context=2.0, up_to_px=1 << 30, weight=1.0, **numbers):
    look = Look(up_to_px=up_to_px, context=context, weight=weight)
    return Zoom(
        **{"looks": (look,), "min_image_px": 1, "max_enlargement": 256.0, "growth": 1.0, "max_views": 32, **numbers}
    )


ALWAYS = rule()
SHARED = rule(up_to_px=64, min_image_px=20, max_enlargement=8.0, growth=2.0, max_views=4)


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
    [view] = rule(context, max_views=2).plan([box], full)
    assert 0 <= view.left < view.right <= width
    assert 0 <= view.top < view.bottom <= height
    assert view.left <= box[0] and view.top <= box[1] and view.right > min(box[2], width - 1)
    assert view.bottom > min(box[3], height - 1)
    if view != full:
        side = max(view.right - view.left, (view.bottom - view.top) * aspect)
        longer = max(box[2] - box[0] + 1, (box[3] - box[1] + 1) * aspect)
        assert side >= min(context * longer, max(width, height * aspect)) - max(1, aspect)
        assert side < context * longer + 2 + aspect


def test_windows_by_hand():
    full = full_view(512, 512, 256)
    assert SHARED.plan([[100, 100, 119, 109]], full) == [View(90, 85, 130, 125, 256)]  # 20 px long: 40 px
    assert SHARED.plan([[0, 508, 3, 511]], full) == [View(0, 480, 32, 512, 256)]  # 256 / 8 px, moved into the image
    assert SHARED.plan([[0, 0, 200, 40]], full) == [full]  # 201 px are 100 on the grid, above 64
    assert SHARED.plan([[1, 1, 4, 4]], full_view(19, 19, 256)) == [full_view(19, 19, 256)]
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


def test_looks_by_size():
    zoom = Zoom(**{**vars(SHARED), "looks": (Look(up_to_px=16, context=3.0, weight=0.5), *SHARED.looks)})
    full = full_view(512, 512, 256)
    assert zoom.look([0, 0, 31, 9], full).weight == 0.5  # 16 px on the grid
    assert zoom.look([0, 0, 32, 9], full).weight == 1.0
    assert zoom.look([0, 0, 128, 9], full) is None
    np.testing.assert_array_equal(zoom.sides([[0, 0, 31, 9], [0, 0, 32, 9], [0, 0, 128, 9]], full), [96, 66, math.inf])


def test_many_boxes_far_apart_get_larger_windows_and_not_more_views():
    boxes = [[x, y, x + 6, y + 6] for x in range(0, 2000, 100) for y in range(0, 2000, 200)]
    full = full_view(2000, 2000, 256)
    views = load_zoom("auto").plan(boxes, full)
    assert 8 < len(set(views)) <= 31
    assert all(view.right - view.left < 800 for view in views)


def test_choices():
    assert load_zoom("off") is None
    auto = load_zoom("auto")
    for factor in (2, "2", 2.0):
        assert load_zoom(factor) == Zoom(**{**vars(auto), "looks": (Look(up_to_px=1 << 30, context=2.0, weight=1.0),)})
    for wrong in ("", "on", "0.5", "nan", "inf", 0, -1):
        with pytest.raises(ValueError, match=r"zoom.* is .*; required: "):
            load_zoom(wrong)
    assert [name for name in zoom_names() if load_zoom(name) is None] == ["auto_lite_medsam"]


def test_a_model_may_have_an_auto_of_its_own():
    assert load_zoom("auto", "lite_medsam") is None
    assert load_zoom("auto", "graysam_l0") == load_zoom("auto", "another") == load_zoom("auto")
    assert load_zoom("fast", "lite_medsam") == load_zoom("fast")
    assert load_zoom(2, "lite_medsam") == load_zoom(2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_views": 0},
        {"max_views": 1},
        {"growth": 0.5},
        {"min_image_px": math.nan},
        {"min_image_px": 0},
        {"context": 0.5},
        {"weight": 0},
        {"max_views": True},
    ],
)
def test_a_rule_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="required: a number"):
        rule(**wrong)


def test_looks_out_of_order_are_refused():
    with pytest.raises(ValueError, match="each larger than the one before"):
        Zoom(**{**vars(SHARED), "looks": SHARED.looks * 2})
