"""Overlays: sizes, colours, what is drawn where, and files written whole."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from graysam.imaging import drawing
from graysam.imaging.drawing import BOX, PREDICTION, TRUTH, YELLOW, detail_window, draw_overlay, draw_panel

NO_BOXES = np.zeros((0, 4))


def square(height: int = 64, width: int = 48) -> np.ndarray:
    """Return labels with one object."""
    labels = np.zeros((height, width), np.uint16)
    labels[20:40, 10:30] = 1
    return labels


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Say whether any pixel has exactly this colour."""
    return bool((picture == colour).all(axis=-1).any())


def test_small_images_are_enlarged_with_boxes_left_and_masks_right() -> None:
    labels = square()
    boxes = np.array([[10, 20, 29, 39]])
    picture = draw_overlay(np.full((64, 48), 100, np.uint8), labels, boxes, labels)
    assert picture.dtype == np.uint8
    assert picture.shape == (512, 2 * 384 + 4, 3)
    left, right = picture[:, :384], picture[:, -384:]
    assert has_colour(left, YELLOW)
    assert not has_colour(right, YELLOW)
    assert has_colour(right, drawing.label_colour(1))
    assert not has_colour(left, drawing.label_colour(1))
    assert has_colour(right, (255, 255, 255))
    rows, columns = np.nonzero((left == YELLOW).all(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (160, 320, 80, 240)  # the pixels' edges, x8


def test_the_image_keeps_its_colours_and_is_not_drawn_into() -> None:
    image = np.zeros((600, 600, 3), np.uint8)
    image[..., 0] = 200
    before = image.copy()
    grey = draw_overlay(np.arange(4096, dtype=np.uint16).reshape(64, 64), np.zeros((64, 64), np.uint8))
    assert has_colour(grey, (0, 0, 0)) and has_colour(grey, (255, 255, 255)), "16 bits are scaled"
    picture = draw_overlay(image, np.zeros((600, 600), np.uint8), np.array([[5, 5, 50, 50]]))
    assert picture.shape == (600, 1204, 3)
    assert tuple(picture[300, 300]) == (200, 0, 0)
    np.testing.assert_array_equal(image, before)


def test_a_volume_shows_up_to_six_objects_at_their_middle_slices() -> None:
    segs = np.zeros((30, 32, 32), np.uint16)
    for label in range(1, 9):
        segs[3 * label : 3 * label + 3, 8:20, 8:20] = label
    image = np.zeros((30, 32, 32), np.uint8)
    picture = draw_overlay(image, segs, caption="case")
    assert picture.shape[0] > 3 * 512
    assert picture.shape[1] > 4 * 512
    shown = [label for label in range(1, 9) if has_colour(picture, drawing.label_colour(label))]
    assert len(shown) == 6
    assert {1, 8} <= set(shown)


def test_a_missed_object_of_a_volume_is_still_shown() -> None:
    nothing = np.zeros((9, 32, 32), np.uint8)
    gts = nothing.copy()
    gts[6:9, 5:20, 5:20] = 1
    image = np.zeros((9, 32, 32), np.uint8)
    image[7] = 90
    boxes = np.array([[5, 5, 0, 19, 19, 8]])
    for gts_shown, grey in ((gts, 90), (None, 0)):
        picture = draw_overlay(image, nothing, boxes, gts_shown)
        assert has_colour(picture, YELLOW)
        assert has_colour(picture[100:], (grey,) * 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5000, 3)])
def test_odd_sizes_and_long_captions(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape, np.uint8)
    picture = draw_overlay(empty, empty, np.zeros((0, 4)), empty, caption="\u00e9" * 300)
    assert min(picture.shape) > 0
    assert max(picture.shape) < 4000


def test_pictures_are_written_as_rgb(tmp_path: Path) -> None:
    picture = np.zeros((64, 48, 3), np.uint8)
    picture[..., 0] = 200
    drawing.write_picture(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), picture[..., ::-1])


@pytest.mark.parametrize(
    ("segs", "boxes", "gts"),
    [
        (np.zeros((3, 64, 48), int), None, None),
        (np.zeros((64, 48), int), np.zeros((2, 6)), None),
        (np.zeros((64, 48), int), None, np.zeros((64, 47), int)),
    ],
)
def test_what_does_not_belong_together_is_refused(segs, boxes, gts) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="required"):
        draw_overlay(np.zeros((64, 48), np.uint8), segs, boxes, gts)


def test_the_window_holds_all_that_is_drawn_with_a_margin() -> None:
    shape = (100, 200)
    mask = np.zeros(shape, np.uint8)
    mask[0, 0] = 1
    whole = slice(0, 100), slice(0, 200)
    assert detail_window(shape, NO_BOXES, ()) == whole, "nothing to draw"
    box = np.array([[100, 40, 139, 59]])
    assert detail_window(shape, box, ()) == (slice(10, 90), slice(80, 160)), "40 px and half of that a side"
    assert detail_window(shape, NO_BOXES, (mask,)) == (slice(0, 64), slice(0, 64)), "in the image, not below 64 px"
    mask[99, 199] = 1
    assert detail_window(shape, box, (mask,)) == whole


@pytest.fixture
def large_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw a window of 64 px at 640 px, so that a pixel of the image has 10 px."""
    monkeypatch.setattr(drawing, "PANEL_SIDE", 640)


@pytest.mark.usefixtures("large_panel")
def test_a_panels_lines_lie_on_the_edges_of_masks_and_boxes() -> None:
    gts, masks = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    gts[10:30, 10:30] = 1
    masks[40:55, 40:55] = 3
    picture = draw_panel(np.full((64, 64), 90, np.uint8), np.array([[0, 0, 63, 63]]), masks, gts)
    assert picture.shape == (640, 640, 3) and picture.dtype == np.uint8
    assert {tuple(picture[at]) for at in ((200, 100), (100, 200), (299, 200))} == {TRUTH}
    assert {tuple(picture[at]) for at in ((480, 400), (480, 549))} == {PREDICTION}
    assert tuple(picture[480, 480]) == tuple(picture[200, 200]) == (90, 90, 90), "outlines, not filled"
    assert {tuple(pixel) for pixel in picture[0, 20:600].tolist()} == {BOX, (0, 0, 0)}, "dashes of white and black"


@pytest.mark.usefixtures("large_panel")
def test_the_last_pixel_of_a_box_lies_within_its_lines() -> None:
    boxes = np.array([[10, 10, 19, 19], [0, 0, 63, 63]])  # the second one makes the window 64 px large
    picture = draw_panel(np.full((64, 64), 90, np.uint8), boxes)
    drawn = [x for x in range(50, 300) if tuple(picture[150, x]) != (90, 90, 90)]
    assert min(drawn) + max(drawn) == 100 + 200 and 95 < min(drawn) < 100, "lines around 100 and 200"


def test_where_they_agree_the_ground_truth_lies_on_the_prediction() -> None:
    labels = square(64, 64)
    for masks, expected in ((labels, {PREDICTION}), (None, set())):
        picture = draw_panel(np.full((64, 64), 90, np.uint8), np.array([[10, 20, 29, 39]]), masks, labels)
        assert {colour for colour in (TRUTH, PREDICTION) if has_colour(picture, colour)} == {TRUTH, *expected}
