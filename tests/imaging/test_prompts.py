"""What is a volume, and which boxes fit: decided by declared rules, or refused with both readings."""

from typing import Any

import numpy as np
import pytest

from graysam.imaging.prompts import check_labels, fit_boxes, is_mask_volume, is_volume

DETECTED = [[1, 2, 5, 7, 0.9, 2]]  # x_min, y_min, x_max, y_max, score and class
IN_VOLUME = [[0, 0, 0, 2, 7, 8]]


@pytest.mark.parametrize(
    ("shape", "dtype", "boxes", "declared", "volume"),
    [
        ((9, 8, 3), np.uint8, IN_VOLUME, None, True),
        ((9, 8, 3), np.uint8, [], None, False),
        ((9, 8, 3), np.int16, [], False, False),
        ((9, 8, 3), np.int16, [], True, True),
        ((3, 9, 8), np.uint8, IN_VOLUME, None, True),
        ((3, 9, 8), np.uint8, np.zeros((0, 6)), None, True),
        ((1, 9, 8), np.uint8, [], True, True),
        ((4, 9, 8), np.uint8, [], None, True),
        ((4, 9, 8), np.uint8, np.zeros((0, 4)), None, True),
    ],
)
def test_declared_rules_decide_what_is_a_volume(
    shape: tuple[int, ...], dtype: Any, boxes: Any, declared: bool | None, volume: bool
) -> None:
    assert is_volume(np.zeros(shape, dtype), np.asarray(boxes), declared) is volume


@pytest.mark.parametrize(
    ("shape", "dtype", "boxes", "declared"),
    [
        ((9, 8, 3), np.uint8, DETECTED, None),
        ((9, 8, 3), np.uint8, IN_VOLUME, False),
        ((9, 8, 1), np.uint8, DETECTED, None),
        ((9, 8, 3), np.int16, [], None),
        ((3, 9, 8), np.uint8, [], None),
        ((1, 9, 8), np.float32, [], None),
    ],
)
def test_an_image_that_fits_both_readings_is_refused(
    shape: tuple[int, ...], dtype: Any, boxes: Any, declared: bool | None
) -> None:
    with pytest.raises(ValueError, match=r"may be a volume \(D,H,W\) or a picture .* 3DBox_ or 2DBox_.* is_volume="):
        is_volume(np.zeros(shape, dtype), np.asarray(boxes), declared)


@pytest.mark.parametrize("shape", [(9, 8, 3), (9, 8, 1), (9, 8, 4), (1, 9, 8), (3, 9, 8)])
def test_masks_with_an_axis_of_channels_are_a_volume_only_where_declared(shape: tuple[int, ...]) -> None:
    assert is_mask_volume(shape, True, "gts")
    for declared in (None, False):
        with pytest.raises(ValueError, match=r"may be a volume .* or a picture's masks with channels; required: "):
            is_mask_volume(shape, declared, "gts")
    assert is_mask_volume((5, 9, 8), None, "gts") and not is_mask_volume((9, 8), True, "gts")


@pytest.mark.parametrize(
    ("shape", "boxes"),
    [((9, 8), [[0, 0, 0, 2, 7, 8]]), ((5, 9, 8), np.ones((3, 4))), ((9, 8), [[True] * 4]), ((9, 8), [["1"] * 4])],
)
def test_boxes_are_never_reshaped(shape: tuple[int, ...], boxes: Any) -> None:
    with pytest.raises(ValueError, match="required: numbers of shape"):
        fit_boxes(np.asarray(boxes), shape, volume=len(shape) == 3)


@pytest.mark.parametrize("labels", [np.ones((2, 2)), np.full((2, 2), -1), np.full((2, 2), 65536)])
def test_labels_are_whole_numbers_of_16_bits(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^gts h.*required"):
        check_labels(labels, "gts")
