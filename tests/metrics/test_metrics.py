"""DSC and NSD: against the official script's numbers and surface-distance, by hand, and silent failures."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graysam.metrics.challenge import binary_metrics, case_dice, case_metrics, dice
from graysam.metrics.surface import (
    contour_dice,
    image_surface_dice,
    neighbour_codes,
    surface_areas,
    volume_surface_dice,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = sorted(json.loads((GOLDENS / "metrics_expected.json").read_text()))
Oracle = Callable[..., float]


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float64]]:
    """Return the arrays of the official script's 29 cases."""
    assert len(CASES) == 29
    with np.load(GOLDENS / "metrics.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    """Return surface-distance's surface Dice; its 0.1 needs `np.Inf`, which NumPy 2 dropped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "Inf", np.inf, raising=False)
        import surface_distance

        def surface_dice_of(gt, pred, spacing, tolerance):  # type: ignore[no-untyped-def]
            distances = surface_distance.compute_surface_distances(gt, pred, spacing)
            return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)

        yield surface_dice_of


def surface_dice(gt, pred, spacing, tolerance) -> float:  # type: ignore[no-untyped-def]
    """Return the official surface Dice of two volumes or images."""
    if gt.ndim == 3:
        return volume_surface_dice(gt, pred, spacing, tolerance)
    return image_surface_dice((neighbour_codes(gt), neighbour_codes(pred)), tolerance)


def contour_dice_of(gt: NDArray[np.bool_], pred: NDArray[np.bool_], tolerance: float) -> float:
    return contour_dice((neighbour_codes(gt), neighbour_codes(pred)), tolerance)


def disc(height: int, width: int, y: float, x: float, radius: float) -> NDArray[np.bool_]:
    """Return a filled circle."""
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


@pytest.mark.parametrize("case", CASES)
def test_golden_case(case: str, golden: dict[str, NDArray[np.float64]]) -> None:
    gts, pred = golden[f"{case}__gt"], golden[f"{case}__pred"]
    spacing = golden.get(f"{case}__spacing")

    scores = case_metrics(gts, pred, spacing, absent="official")

    np.testing.assert_allclose(scores[:2], golden[f"{case}__official_dsc_nsd"], atol=1e-6)
    for label, dsc, nsd2, nsd1, _ in golden[f"{case}__per_label_l_dsc_nsd2_nsd1_hd95"]:
        masks = gts == label, pred == label
        values = [dice(*masks), surface_dice(*masks, spacing, 2), surface_dice(*masks, spacing, 1)]
        np.testing.assert_allclose(values, [dsc, nsd2, nsd1], atol=1e-6)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3.0, 0.7, 0.7), (0.7, 0.8, 2.0), (0.31, 4.7, 1.9)])
def test_area_of_every_neighbourhood_code(spacing: tuple[float, ...]) -> None:
    from surface_distance import lookup_tables

    bits = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    corners = list(itertools.product((0, 1), repeat=3))
    theirs = [sum(int(bits[c]) for i, c in enumerate(corners) if code >> i & 1) for code in range(256)]
    expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)[theirs]
    np.testing.assert_allclose(surface_areas(spacing), expected, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    filled=st.tuples(*[st.sampled_from([0.02, 0.3, 0.7, 1.0])] * 2),
    spacing=st.tuples(*[st.sampled_from([0.1, 0.5, 0.7, 1.0, 1.37, 2.0, 3.3])] * 3),
    tolerance=st.sampled_from([0.0, 0.7, 1.0, 2.0, 3.1]),
)
def test_surface_dice_equals_surface_distance(oracle, seed, shape, filled, spacing, tolerance) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(seed)
    gt, pred = (random.random(shape) < share for share in filled)
    if not (gt.any() or pred.any()):
        return
    assert surface_dice(gt, pred, spacing, tolerance) == pytest.approx(oracle(gt, pred, spacing, tolerance), abs=1e-6)
    if not (gt[0].any() or pred[0].any()):
        return
    official = oracle(gt[0, ..., None], pred[0, ..., None], (1, 1, 1), tolerance)
    assert surface_dice(gt[0], pred[0], None, tolerance) == pytest.approx(official, abs=1e-6)
    assert contour_dice_of(gt[0], pred[0], tolerance) == pytest.approx(
        oracle(gt[0], pred[0], (1, 1), tolerance), abs=1e-6
    )


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
def test_real_sizes_equal_surface_distance(oracle: Oracle) -> None:
    gt, pred = disc(256, 256, 120, 130, 70), disc(256, 256, 123, 128, 71)
    expected = oracle(gt[..., None], pred[..., None], (1, 1, 1), 2)
    assert binary_metrics(gt, pred) == pytest.approx((dice(gt, pred), expected), abs=1e-9)
    balls = [
        np.stack([disc(80, 70, 40, x, math.sqrt(max(0, 900 - 4 * (z - 20) ** 2))) for z in range(40)]) for x in (33, 36)
    ]
    spacing = (2.0, 0.9, 0.8)
    assert surface_dice(*balls, spacing, 2) == pytest.approx(oracle(*balls, spacing, 2.0), abs=1e-9)


def test_contour_of_squares_by_hand() -> None:
    gt, pred = np.zeros((2, 20, 20), bool)
    gt[5:9, 5:9] = True
    pred[5:9, 5:15] = True
    corner, square = math.sqrt(0.5), 4 * 3 + 4 * math.sqrt(0.5)
    # A run of k pixels has k + 1 neighbourhoods: corner, k - 1 of length 1, corner. gt's contour lies on
    # columns 5..9, pred's on 5..15; pred's columns up to 11 lie within 2 px of gt's right side, column 9.
    pred_length = 2 * 9 + 2 * 3 + 4 * corner
    pred_within = 2 * corner + 3 + 2 * 6
    # gt's own right side (column 9, rows 6..8) is 1 or 2 px from pred's upper or lower side.
    assert contour_dice_of(gt, pred, 2) == pytest.approx((square + pred_within) / (square + pred_length))


def test_the_contour_nsd_differs_only_for_images() -> None:
    gt, pred = disc(128, 128, 64, 64, 40).astype(np.uint8), disc(128, 128, 64, 64, 34).astype(np.uint8)
    scores = case_metrics(gt, pred)
    assert scores.nsd > 0.85 and scores.nsd_contour == 0.0
    volume = np.zeros((4, 20, 20), np.uint8)
    volume[1:3, 5:15, 5:15] = 1
    scores = case_metrics(volume, np.roll(volume, 3, axis=2), (1, 1, 1))
    assert scores.nsd_contour == scores.nsd < 1.0


def test_spacing_is_taken_in_array_order() -> None:
    gt = np.zeros((6, 16, 16), np.uint8)
    gt[1:4, 4:12, 4:12] = 1
    pred = np.roll(gt, 1, axis=0)
    assert case_metrics(gt, pred, (1, 5, 5)).nsd == 1.0
    assert case_metrics(gt, pred, (5, 1, 1)).nsd < 1.0


def test_labels_of_one_array_alone() -> None:
    gts = np.zeros((30, 30), np.uint8)
    gts[2:8, 2:8], gts[12:20, 12:20] = 1, 3
    assert case_metrics(gts, gts) == (1.0, 1.0, 1.0), "2 is a gap"
    dsc, nsd, contour = case_metrics(gts, gts, absent="official")
    assert math.isnan(dsc) and (nsd, contour) == (0.0, 0.0)
    segs = gts.copy()
    segs[25:28, 25:28] = 2
    assert case_metrics(gts, segs).dsc == pytest.approx(2 / 3)
    segs[25:28, 25:28] = 4
    assert case_metrics(gts, segs).dsc == 1.0, "above the last label of gts"


def test_case_dice_is_that_of_the_whole_score() -> None:
    """Labels 1 (half found), 2 (not found) and 4 (found); 3 is a gap, and 5 of segs alone does not count."""
    gts, segs = np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.uint8)
    gts[0], gts[1], gts[2] = 1, 2, 4
    segs[0, :4], segs[2], segs[3] = 1, 4, 5
    assert case_dice(gts, segs) == pytest.approx((2 * 4 / 12 + 0 + 1) / 3) == case_metrics(gts, segs).dsc
    assert case_dice(gts[None], segs[None]) == case_dice(gts, segs), "no spacing needed"
    assert math.isnan(case_dice(np.zeros_like(gts), segs))


def test_gts_without_labels_are_not_scored() -> None:
    empty = np.zeros((8, 8), np.uint8)
    assert all(math.isnan(value) for value in case_metrics(empty, empty))
    assert all(math.isnan(value) for value in case_metrics(empty, np.ones((8, 8), np.uint16)))
    assert all(math.isnan(value) for value in case_metrics(empty[:0], empty[:0]))


@pytest.mark.parametrize(("dtype", "label"), [(np.uint8, 255), (np.uint16, 65535), (np.int64, 300), (bool, 1)])
def test_the_largest_label_of_a_dtype_counts(dtype: type, label: int) -> None:
    gts: NDArray[np.generic] = np.zeros((20, 20), dtype)
    gts[4:12, 4:12] = label
    assert case_metrics(gts, gts.astype(np.uint16)) == (1.0, 1.0, 1.0)


def test_nsd_is_zero_unless_dice_is_above_its_gate() -> None:
    gts = np.zeros((30, 30), np.uint8)
    gts[5, 5:10] = 1
    pred = np.roll(gts, 4, axis=1)  # one pixel of five in common: DSC exactly 0.2
    assert case_metrics(gts, pred) == pytest.approx((0.2, 0.0, 0.0))
    assert binary_metrics(gts == 1, pred == 1) == pytest.approx((0.2, 0.0))
    assert surface_dice(gts == 1, pred == 1, None, 2) > 0.3


def test_an_empty_prediction_scores_zero() -> None:
    gts = np.zeros((3, 9, 9), np.uint8)
    gts[1, 2:6, 2:6] = 1
    empty = np.zeros_like(gts)
    assert case_metrics(gts, empty, (1, 1, 1)) == (0.0, 0.0, 0.0)
    assert surface_dice(gts == 1, empty == 1, (1, 1, 1), 2) == 0.0
    assert binary_metrics(gts[1] == 1, empty[1] == 1) == (0.0, 0.0)
    assert all(math.isnan(value) for value in binary_metrics(empty[0] == 1, empty[1] == 1))
    assert math.isnan(surface_dice(empty == 1, empty == 1, (1, 1, 1), 2))
    assert math.isnan(contour_dice_of(empty[0] == 1, empty[0] == 1, 2))


def test_binary_metrics_equal_the_case_of_one_object() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        y, x, r = random.uniform(60, 190, 3)
        gt, pred = disc(256, 256, y, x, r / 3), disc(256, 256, y + random.normal(0, 4), x, r / 3)
        assert binary_metrics(gt, pred) == case_metrics(gt, pred)[:2]


@pytest.mark.parametrize(
    ("gts", "segs", "spacing_mm", "message"),
    [
        (np.ones((4, 4), int), np.ones((4, 5), int), None, "same shape"),
        (np.ones((4, 4), float), np.ones((4, 4), int), None, "integers"),
        (np.ones(4, int), np.ones(4, int), None, "integers"),
        (np.ones((4, 4, 4), int), np.ones((4, 4, 4), int), None, "3 positive"),
        (np.ones((4, 4, 4), int), np.ones((4, 4, 4), int), (1, 0, 1), "3 positive"),
        (np.ones((4, 4, 4), int), np.ones((4, 4, 4), int), (1, math.nan, 1), "3 positive"),
    ],
)
def test_bad_cases_are_refused(gts, segs, spacing_mm, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        case_metrics(gts, segs, spacing_mm)
    mask = np.ones((4, 4), bool)
    for gt, pred in ((mask.astype(np.uint8), mask), (mask, mask[:3]), (mask, mask[None])):
        with pytest.raises(ValueError, match="required: bool of the same shape"):
            dice(gt, pred)
