"""Segmentation through views of an image and along several axes of a volume, with a network whose answer is known."""

import numpy as np
import pytest

from graysam.imaging.channels import load_scheme
from graysam.imaging.views import full_view
from graysam.imaging.zoom import Look, Zoom, load_zoom
from graysam.inference.axes import AxesRule, load_walk, merge_walks
from graysam.inference.segmentation import Segmentation
from graysam.io.image import Image

REPLICATE = load_scheme("replicate")
ALL_AXES = AxesRule(max_anisotropy=100, min_slices=1)


class BrightInBox:
    """Segments what is bright within the box, and counts what it encodes and decodes."""

    def __init__(self):
        self.encoded, self.decoded = 0, 0

    def encode(self, images):
        self.encoded += len(images)
        return images[:, 0] * 16 - 8

    def decode(self, embedding, grid_boxes, valid_size=None):
        self.decoded += len(grid_boxes)
        logits = np.full((len(grid_boxes), *embedding.shape), -8, np.float32)
        for answer, (x_min, y_min, x_max, y_max) in zip(logits, grid_boxes.astype(int), strict=True):
            part = slice(max(y_min - 1, 0), y_max + 2), slice(max(x_min - 1, 0), x_max + 2)
            answer[part] = embedding[part]
        return logits, np.full(len(grid_boxes), 0.9, np.float32)


def segment(image, boxes, **options):
    backend = BrightInBox()
    return Segmentation(image, boxes, backend, REPLICATE, **options), backend


def one_look(weight, context=1.4):
    look = Look(up_to_px=1 << 30, context=context, weight=weight)
    return Zoom(looks=(look,), min_image_px=1, max_enlargement=32.0, growth=1.5, max_views=32)


def disk(shape, centre, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def around(mask):
    """Return the box of a mask, x before y before z."""
    places = np.argwhere(mask)[:, ::-1]
    return [*places.min(0).tolist(), *places.max(0).tolist()]


@pytest.mark.parametrize("is_volume", [False, True])
def test_without_looks_all_is_as_without_zoom(is_volume):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (5, 90, 70) if is_volume else (90, 70), np.uint8)
    boxes = [[3, 5, 0, 40, 60, 4], [10, 2, 1, 69, 89, 3]] if is_volume else [[3, 5, 40, 60], [10, 2, 69, 89]]
    plain = segment(image, boxes)[0].labels()
    none = Zoom(looks=(), min_image_px=1, max_enlargement=8.0, growth=1.5, max_views=32)
    np.testing.assert_array_equal(segment(image, boxes, zoom=none)[0].labels(), plain)
    masks, zoomed = segment(image, boxes)[0].masks(), segment(image, boxes, zoom=none)[0].masks()
    for mask, other in zip(masks, zoomed, strict=True):
        np.testing.assert_array_equal(mask.mask, other.mask)


def test_a_small_object_is_found_exactly_where_the_full_view_blurs_it():
    truth = disk((1000, 900), (421, 388), 6)
    image = truth.astype(np.uint8) * 200
    zoomed, backend = segment(image, [around(truth)], zoom=one_look(1.0))
    plain, _ = segment(image, [around(truth)])
    assert dice(zoomed.labels() > 0, truth) > 0.97
    assert dice(plain.labels() > 0, truth) < 0.95
    assert (backend.encoded, backend.decoded) == (1, 1)  # in place of the full view


def test_two_looks_are_averaged_on_the_window():
    truth = disk((400, 400), (100, 300), 30)
    box = around(truth)
    image = truth.astype(np.uint8) * 255
    both, backend = segment(image, [box], zoom=one_look(0.25))
    [mask] = both.masks()
    assert (backend.encoded, backend.decoded) == (2, 2)
    [window] = mask.views
    assert (window.left, window.right, window.top, window.bottom) == (258, 344, 58, 144)  # 61 px * 1.4
    [full], [close] = (segment(image, [box], zoom=zoom)[0].masks() for zoom in (None, one_look(1.0)))
    expected = 0.75 * full_view(400, 400, 256).resample(np.pad(full.logits, ((0, 0), (0, 0))), window)
    np.testing.assert_allclose(mask.logits, expected + 0.25 * close.logits, atol=1e-5)
    np.testing.assert_array_equal(both_mask := mask.mask, segment(image, [box], zoom=one_look(0.25))[0].labels() > 0)
    assert dice(both_mask, truth) > 0.97


def test_no_label_of_200_small_boxes_in_a_large_image_is_lost():
    image, boxes = np.zeros((2000, 2000), np.uint8), []
    for row in range(20, 2000, 100):
        for column in range(30, 2000, 200):
            image[row : row + 5, column : column + 5] = 255
            boxes.append([column - 1, row - 1, column + 5, row + 5])
    segmentation, backend = segment(image, boxes, zoom=load_zoom("auto"))
    labels = segmentation.labels()
    assert len(boxes) == 200
    assert set(np.unique(labels)) == set(range(201))
    assert backend.encoded <= 32
    with pytest.warns(UserWarning, match="without a pixel"):
        blurred = segment(image[::1], boxes)[0].labels()
    assert len(np.unique(blurred)) < 201


def test_a_view_follows_an_object_that_shrinks():
    volume, radii = np.zeros((9, 300, 300), np.uint8), [4, 4, 5, 10, 40, 10, 5, 4, 4]
    for z, radius in enumerate(radii):
        volume[z, disk((300, 300), (140, 150), radius)] = 255
    segmentation, backend = segment(volume, [around(volume > 0)], zoom=one_look(1.0))
    [found] = segmentation.masks()
    widths = [view.right - view.left for view in found.views]
    assert widths[4] == 114  # 81 px * 1.4
    assert widths[0] < 60 and widths[8] < 60
    assert backend.encoded == 9
    assert dice(found.mask, volume > 0) > 0.97
    np.testing.assert_array_equal(found.mask, segment(volume, [around(volume > 0)], zoom=one_look(1.0))[0].labels() > 0)
    assert found.logits.shape == (9, 256, 256)


def test_objects_of_a_volume_share_views_and_both_sweeps_their_embeddings():
    volume = np.zeros((6, 400, 400), np.uint8)
    volume[:, 50:70, 50:70] = volume[:, 55:75, 72:92] = volume[2:, 300:320, 300:320] = 255
    boxes = [[50, 50, 0, 69, 69, 5], [72, 55, 0, 91, 74, 3], [300, 300, 2, 319, 319, 5]]
    segmentation, backend = segment(volume, boxes, zoom=one_look(1.0, context=2.0))
    labels = segmentation.labels()
    assert [dice(labels == label, part) > 0.95 for label, part in enumerate(_parts(volume.shape, boxes), start=1)]
    assert backend.encoded <= 6 * 2 + 4  # the first two share a view as long as both are there


def _parts(shape, boxes):
    for x_min, y_min, z_min, x_max, y_max, z_max in boxes:
        part = np.zeros(shape, bool)
        part[z_min : z_max + 1, y_min : y_max + 1, x_min : x_max + 1] = True
        yield part


def ellipsoid(shape, spacing_mm, radius_mm):
    axes = [(np.arange(n) - n / 2 + 0.5) * s for n, s in zip(shape, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius_mm**2


@pytest.mark.parametrize("zoom", [None, one_look(0.5)])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.8)])
def test_three_walks_find_a_ball(spacing_mm, zoom):
    shape = tuple(int(60 / s) for s in spacing_mm)
    truth = ellipsoid(shape, spacing_mm, 22)
    image = Image(truth.astype(np.uint8) * 255, spacing_mm, is_volume=True)
    segmentation, backend = segment(image, [around(truth)], zoom=zoom, axes=ALL_AXES)
    assert dice(segmentation.labels() > 0, truth) > 0.96
    visited = np.ptp(np.argwhere(truth)[:, 0]) + 1
    assert backend.decoded <= 3 * visited * (1 if zoom is None else 2)
    [mask] = segment(image, [around(truth)], zoom=zoom, axes=ALL_AXES)[0].masks()
    assert dice(mask.mask, truth) > 0.96 and mask.logits.shape[0] == visited


class DarkOnOneAxis(BrightInBox):
    """Sees nothing in the first walk, of 30 slices."""

    def decode(self, embedding, grid_boxes, valid_size=None):
        logits, iou = super().decode(embedding, grid_boxes, valid_size)
        return (logits if self.decoded > 30 else logits * 0 - 4), iou


def test_two_of_three_walks_decide():
    truth = ellipsoid((40, 40, 40), (1, 1, 1), 15)
    boxes = np.array([around(truth)], float)
    network = {"backend": DarkOnOneAxis(), "scheme": REPLICATE, "size": 256, "zoom": None}
    [(region, mask)] = merge_walks(truth.astype(np.uint8) * 255, boxes, (1, 1, 1), **network)
    assert dice(mask, truth[region]) > 0.97


def test_only_some_objects_are_walked_along_all_axes():
    volume = np.zeros((30, 60, 60), np.uint8)
    volume[2:28, 5:25, 5:25] = volume[10:13, 40:55, 40:55] = 255
    boxes = [[5, 5, 2, 24, 24, 27], [40, 40, 10, 54, 54, 12]]
    rule = AxesRule(max_anisotropy=2, min_slices=12)
    np.testing.assert_array_equal(rule.applies(np.array(boxes, float), (1, 1, 1)), [True, False])
    assert not rule.applies(np.array(boxes, float), (5, 1, 1)).any()
    labels = segment(Image(volume, (1, 1, 1), is_volume=True), boxes, axes=rule)[0].labels()
    for label, part in enumerate(_parts(volume.shape, boxes), start=1):
        assert dice(labels == label, part) > 0.95
    exclusive = [[*box[:5], box[5] + 1] for box in boxes]
    again = segment(Image(volume, (1, 1, 1), is_volume=True), exclusive, axes=rule, z_max_inclusive=False)[0].labels()
    np.testing.assert_array_equal(again, labels)


def test_the_published_baseline_is_neither_zoomed_nor_walked_along_other_axes():
    volume = np.random.default_rng(1).integers(0, 255, (6, 50, 60), np.uint8)
    box, options = [[5, 5, 0, 30, 40, 5]], {"propagation": "litemedsam"}
    plain, closely = segment(volume, box, **options), segment(volume, box, zoom=one_look(1.0), axes=ALL_AXES, **options)
    np.testing.assert_array_equal(closely[0].labels(), plain[0].labels())
    assert closely[1].encoded == plain[1].encoded


def test_no_boxes():
    options = {"zoom": load_zoom("auto"), "axes": load_walk("three_axes")}
    assert not segment(np.ones((9, 9), np.uint8), [], **options)[0].labels().any()
    assert not segment(np.ones((9, 9, 9), np.uint8), np.zeros((0, 6)), **options)[0].labels().any()


def test_walks_by_name():
    assert load_walk("slices") is None
    assert load_walk("auto").min_slices > 1
    assert load_walk("three_axes").applies(np.array([[0, 0, 0, 5, 5, 0]], float), (100, 1, 1)).all()
    with pytest.raises(ValueError, match="required: one of slices, auto, three_axes"):
        load_walk("axial")
    with pytest.raises(ValueError, match="required: a number of at least 0"):
        AxesRule(max_anisotropy=-1, min_slices=1)
