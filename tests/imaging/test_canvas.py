"""The canvas: goldens of LiteMedSAM's preparation first, then one test for each silent failure."""

import numpy as np
import pytest

from graysam.imaging import canvas
from graysam.imaging.canvas import Canvas, boxes_to_grid, normalize, pad, prepare_image, resize_longest_side, to_uint8
from graysam.imaging.channels import load_scheme, scheme_names
from graysam.imaging.masks import box_from_mask, mask_to_native

CASES = [
    "rgb_128x128", "grey_128x128", "rgb_37x53", "grey_37x53", "rgb_255x257", "rgb_300x200", "rgb_64x301",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "scheme"), [("raw", "replicate"), ("merged", "released")])
def test_preparation_matches_goldens_of_lite_medsam_and_the_released_code(golden, case, name, scheme):
    image = golden[f"{case}__input"]
    resized = resize_longest_side(image if name == "raw" else golden[f"{case}__merged"], 256)
    np.testing.assert_array_equal(resized, golden[f"{case}__{name}_resized256"])
    normalized = normalize(resized)
    stats = [normalized.mean(dtype=float), normalized.std(dtype=float), normalized.min(), normalized.max()]
    np.testing.assert_allclose(stats, golden[f"{case}__{name}_norm_stats"], atol=1e-6)
    prepared = prepare_image(image, load_scheme(scheme), 256)
    assert prepared.shape == (3, 256, 256) and prepared.dtype == np.float32 and prepared.flags.c_contiguous
    sample = prepared.transpose(1, 2, 0)[::5, ::5]
    np.testing.assert_allclose(sample, golden[f"{case}__{name}_padded_y5_x5"], rtol=0, atol=1e-6)


def test_boxes_to_grid_matches_goldens(golden):
    for *box, height, width, x0, y0, x1, y1 in golden["resize_box__x0y0x1y1_H_W_out4"]:
        np.testing.assert_array_equal(boxes_to_grid([box], height, width, 256), [[x0, y0, x1, y1]])


def test_boxes_to_grid_truncates_as_the_reference_does_and_takes_no_box():
    # The reference multiplies by the factor 256 / side: half of 322 pixels falls just below 128.
    np.testing.assert_array_equal(boxes_to_grid([[161, 0, 161, 0]], 290, 322, 256), [[127, 0, 127, 0]])
    np.testing.assert_array_equal(boxes_to_grid([[0.9, 1.9, 10.99, 511.0]], 512, 100, 256), [[0, 0, 5, 255]])
    empty = boxes_to_grid(np.zeros((0, 4)), 10, 10, 256)
    assert empty.shape == (0, 4) and empty.dtype == np.float32


@pytest.mark.parametrize("size", ["97x131", "400x300"])
@pytest.mark.parametrize("label", [1, 2, 5, 200])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_label_masks_through_area_interpolation_match_goldens(golden, size, label, dtype):
    mask = golden[f"label_{size}_id1_{dtype}__input"]
    assert mask.dtype == np.dtype(dtype)
    resized = resize_longest_side(mask * mask.dtype.type(label), 256)
    key = f"label_{size}_id{label}_{dtype}__"
    assert np.count_nonzero(resized) == golden[key + "nonzero_count"]
    np.testing.assert_array_equal(box_from_mask(pad(resized, 256), 3, limit=256), golden[key + "bbox256"])
    if key + "resized_packbits_nonzero" in golden:
        assert resized.shape == tuple(golden[key + "resized_shape"])
        np.testing.assert_array_equal(np.packbits(resized > 0), golden[key + "resized_packbits_nonzero"])


@pytest.mark.parametrize("shape", [(1, 500), (1000, 1), (1, 1), (3, 2000), (1, 500, 3), (40, 30, 1), (7, 5, 3)])
@pytest.mark.parametrize("scheme", scheme_names())
def test_no_image_side_vanishes(shape, scheme):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    grid = Canvas(*shape[:2], 256)
    stored = resize_longest_side(image, 256)
    assert stored.shape[:2] == (grid.resized_height, grid.resized_width) and min(stored.shape) >= 1
    for given, training in ((image, False), (stored, True), (np.full_like(stored, 77), True)):
        prepared = prepare_image(given, load_scheme(scheme), 256, training=training)
        assert prepared.shape == (3, 256, 256) and np.isfinite(prepared).all()
        assert prepared.min() >= 0 and prepared.max() <= 1
        if scheme != "released" or not training:  # whose wrap-around carries grey into the padding
            assert not prepared[:, grid.resized_height :].any() and not prepared[:, :, grid.resized_width :].any()
    assert mask_to_native(np.ones((256, 256), np.float32), grid).shape == shape[:2]


@pytest.mark.parametrize("scheme", scheme_names())
def test_grey_shapes_give_the_same_input(scheme):
    grey = np.random.default_rng(1).integers(0, 256, (60, 48), dtype=np.uint8)
    expected = prepare_image(grey, load_scheme(scheme), 256)
    np.testing.assert_array_equal(prepare_image(grey[..., None], load_scheme(scheme), 256), expected)
    np.testing.assert_array_equal(prepare_image(np.dstack([grey] * 3), load_scheme(scheme), 256), expected)


@pytest.mark.parametrize("scheme", ["replicate", "paper", "perona_malik"])
@pytest.mark.parametrize("shape", [(300, 200), (37, 53), (512, 384, 3)])
def test_training_and_prediction_prepare_alike(scheme, shape):
    image = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    stored = resize_longest_side(image, 256)  # what a shard holds
    np.testing.assert_array_equal(
        prepare_image(stored, load_scheme(scheme), 256, training=True), prepare_image(image, load_scheme(scheme), 256)
    )


def test_built_on_changes_what_the_histogram_sees():
    image = np.random.default_rng(3).integers(60, 200, (400, 200), dtype=np.uint8)
    native, resized, padded = (
        prepare_image(image, load_scheme("paper", built_on=stage), 256) for stage in ("native", "resized", "padded")
    )
    assert not np.array_equal(native, resized) and not np.array_equal(resized, padded)
    # With the padding in the minimum, the image itself no longer reaches 0.
    assert resized[0, :, :128].min() == 0 < padded[0, :, :128].min()


def test_released_trains_on_the_padded_image():
    image = np.random.default_rng(4).integers(60, 200, (256, 128), dtype=np.uint8)
    padded_scheme = load_scheme("released", built_on="padded")
    in_training = prepare_image(image, load_scheme("released"), 256, training=True)
    np.testing.assert_array_equal(in_training, prepare_image(image, padded_scheme, 256))
    assert not np.array_equal(in_training, prepare_image(image, load_scheme("released"), 256))


@pytest.mark.parametrize(
    "image",
    [
        np.array([[-1000, 0, 1000]], np.int16),
        np.array([[0, 2000, 4000]], np.uint16),
        np.array([[-(2**40), 0, 2**40]], np.int64),
        np.array([[0.0, 0.5, 1.0]], np.float64),
        np.array([[-3e38 / 2, 0.0, 3e38 / 2]], np.float32),
    ],
)
def test_to_uint8_scales_other_dtypes(image):
    assert to_uint8(image).tolist() == [[0, 128, 255]] and to_uint8(image).dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int64, np.float16, np.float32, np.float64, bool])
@pytest.mark.parametrize("shape", [(7, 30, 20), (40, 50, 3), (3, 1), (1, 90)])
def test_to_uint8_in_slabs_is_to_uint8_as_a_whole(monkeypatch, dtype, shape):
    image = (np.random.default_rng(7).standard_normal(shape) * 300).astype(dtype)
    monkeypatch.setattr(canvas, "_SLAB_VALUES", 700)
    scaled = image.astype(np.result_type(dtype, np.float32))
    scaled -= scaled.min()
    if scaled.max() > 0:
        scaled /= scaled.max()
    np.testing.assert_array_equal(to_uint8(image), np.rint(scaled * 255).astype(np.uint8))
    np.testing.assert_array_equal(to_uint8(image.T), to_uint8(image).T)


def test_to_uint8_edge_cases():
    passing = np.array([[3, 4]], np.uint8)
    assert to_uint8(passing) is passing
    assert to_uint8(np.array([False, True])).tolist() == [0, 255]
    assert to_uint8(np.full((2, 2), 900, np.uint16)).tolist() == [[0, 0], [0, 0]]
    assert to_uint8(np.zeros((0, 3), np.float32)).shape == (0, 3)
    for bad in (np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.array([1j]), np.array(["a"])):
        with pytest.raises(ValueError, match=r"finite numbers|real numbers"):
            to_uint8(bad)


@pytest.mark.parametrize("shape", [(0, 5), (5, 5, 4), (5,), (2, 5, 5, 3)])
def test_prepare_image_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        prepare_image(np.zeros(shape, np.uint8), load_scheme("replicate"), 256)


def test_other_sizes_and_dtypes_that_opencv_wraps_are_refused():
    with pytest.raises(ValueError, match="int64"):
        resize_longest_side(np.zeros((4, 4), np.int64), 256)
    with pytest.raises(ValueError, match="could not broadcast"):
        pad(np.zeros((300, 20), np.uint8), 256)
