"""Propagation through slices, driven by the goldens' stub network: traces of the original loops, then promises."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from graysam.imaging.canvas import Canvas, boxes_to_grid
from graysam.imaging.channels import load_scheme
from graysam.imaging.masks import mask_to_native
from graysam.inference import walk as module
from graysam.inference.backend import BOX_BATCH, decode_all
from graysam.inference.segmentation import Segmentation
from graysam.io.image import Image

GOLDENS = Path(__file__).parents[1] / "goldens" / "e2e"
E2E_FILES = sorted(path.stem for path in GOLDENS.glob("*.npz"))
REPLICATE = load_scheme("replicate")


class StubBackend:
    """The goldens' network (README section 7): a box holds what is brighter than 0.4 inside it.

    level: of all pixels instead of the image's: 1 fills every box, 0 leaves all empty.
    """

    def __init__(self, level=None):
        self.level = level
        self.encoded, self.prompts = 0, []

    def encode(self, images):
        assert len(images) == 1
        self.encoded += 1
        return images if self.level is None else np.full_like(images, self.level)

    def decode(self, embedding, grid_boxes, valid_size=None):
        self.prompts.append(grid_boxes)
        inside_logits = (16 * (embedding.mean(axis=0, dtype=np.float64) - 0.40)).astype(np.float32)
        y, x = np.mgrid[: embedding.shape[1], : embedding.shape[2]]
        x0, y0, x1, y1 = grid_boxes.T[:, :, None, None]
        inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
        return np.where(inside, inside_logits, np.float32(-8)), np.zeros(len(grid_boxes), np.float32)


class AsideBackend(StubBackend):
    """The object always lies in the grid's last corner, whatever the box."""

    def decode(self, embedding, grid_boxes, valid_size=None):
        logits, iou = super().decode(embedding, grid_boxes)
        logits[:] = -8
        logits[:, 100:120, 230:250] = 8
        return logits, iou


def trace(image, boxes, backend, scheme=REPLICATE, **options):
    """Return labels and prompts, (label, z) -> box, in the original order: by object, upwards, downwards."""
    segmentation = Segmentation(image, boxes, backend, scheme, **options)
    visited, visits = [], segmentation.visits

    def recorded(*objects):
        for visit in visits(*objects):
            visited.append((visit.item, visit.z))
            yield visit

    segmentation.visits = recorded
    labels = segmentation.labels()
    prompts = list(zip(visited, np.concatenate(backend.prompts), strict=True))
    prompts.sort(key=lambda prompt: _original_order(*prompt[0]))
    return labels, {(item.label, z): box.tolist() for (item, z), box in prompts}


def _original_order(item, z):
    return item.label, z < item.z_mid, abs(z - item.z_mid)


def bright_volume(depth=9, height=64, width=80):
    """Return a volume with a bright tilted bar on noise."""
    volume = np.random.default_rng(0).integers(0, 60, (depth, height, width), dtype=np.uint8)
    for z in range(depth):
        volume[z, 20:40, 10 + 3 * z : 40 + 3 * z] += 150
    return volume


@pytest.mark.parametrize("name", E2E_FILES)
@pytest.mark.parametrize(
    ("golden", "scheme"),
    [("litemedsam", "replicate"), ("gray_litemedsam_loop", "released"), ("gray_official_code", "released")],
)
def test_stub_traces_of_the_original_loops(name, golden, scheme):
    if golden == "gray_official_code" and name.startswith("3D"):
        return  # its 3D loop is faulty (design.md section 5)
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as stored:
        case = dict(stored)
    segs, prompts = trace(
        case["in_imgs"], case["in_boxes"], StubBackend(), load_scheme(scheme), propagation="litemedsam"
    )
    np.testing.assert_array_equal(np.array(list(prompts.values())), case[f"stub_boxes_{golden}"])
    expected = case[f"stub_segs_{golden}"]
    assert segs.dtype == np.uint16 and segs.shape == expected.shape
    assert (segs != expected).mean() <= 0.0005


BAR = np.full((3, 128, 256), 10, np.uint8)
BAR[:, 40:60, 100:140] = 200
DARK = np.zeros((3, 64, 128), np.uint8)  # two grid pixels a native one


@pytest.mark.parametrize(
    ("image", "box", "backend", "middle", "others"),
    [
        (BAR, [90, 30, 0, 150, 70, 2], StubBackend(), [90, 30, 150, 70], [97, 37, 142, 62]),
        # Grown by 3, the box would leave native columns 20 to 39 and rows 10 to 29: grid 40 to 79 and 20 to 59.
        (DARK, [20, 10, 0, 39, 29, 2], StubBackend(1), [40, 20, 78, 58], [40, 20, 79, 59]),
        # The object fills the image, 205 x 256 on the grid, and the box reaches one past it.
        (DARK[..., :80], [0, 0, 0, 80, 64, 2], StubBackend(1), [0, 0, 256, 204], [0, 0, 255, 204]),
        (DARK, [20, 10, 0, 39, 29, 2], AsideBackend(), [40, 20, 78, 58], [40, 20, 78, 58]),
        (DARK, [100, 10, 0, 120, 55, 2], AsideBackend(), [200, 20, 240, 110], [227, 97, 241, 111]),
    ],
    ids=["grown", "within the given box", "on the image", "mask outside of the box", "mask partly outside"],
)
def test_own_boxes(image, box, backend, middle, others):
    _, prompts = trace(image, [box], backend)
    assert prompts == {(1, 1): middle, (1, 2): others, (1, 0): others}


def test_own_ignores_other_objects():
    volume = bright_volume()
    bar = [5, 15, 1, 60, 45, 7]
    others = [[0, 0, 0, 79, 63, 8], [10, 22, 2, 40, 38, 5], [30, 10, 3, 70, 50, 8]]
    alone, prompts_alone = trace(volume, [bar], StubBackend())
    together, prompts = trace(volume, [*others, bar], StubBackend())
    assert {z: box for (label, z), box in prompts.items() if label == 4} == {
        z: box for (_, z), box in prompts_alone.items()
    }
    np.testing.assert_array_equal(together == 4, alone == 1)  # the last box overwrites all others


@pytest.mark.parametrize(("propagation", "differing"), [("own", 0), ("litemedsam", 4)])
def test_litemedsam_boxes_depend_on_the_label_and_own_ones_do_not(propagation, differing):
    volume = bright_volume(height=300, width=400)
    _, prompts = trace(volume, [[20, 15, 0, 90, 45, 8]] * 5, StubBackend(), propagation=propagation)
    per_label = [[prompts[label, z] for z in range(9)] for label in range(1, 6)]
    assert sum(boxes != per_label[0] for boxes in per_label) == differing


@pytest.mark.parametrize("propagation", ["own", "litemedsam"])
def test_an_empty_mask_falls_back_to_the_given_box_and_only_there(propagation):
    segs, prompts = trace(bright_volume(), [[5, 5, 0, 30, 30, 4]], StubBackend(0), propagation=propagation)
    given = boxes_to_grid([[5, 5, 30, 30]], 64, 80, 256)[0].tolist()
    assert prompts == {(1, z): given for z in (2, 3, 4, 1, 0)}
    assert not segs.any()
    volume = bright_volume(depth=5)
    volume[3] = 0  # nothing on slice 3
    _, prompts = trace(volume, [[5, 5, 0, 70, 60, 4]], StubBackend(), propagation=propagation)
    assert prompts[1, 2] == prompts[1, 4] != prompts[1, 3]


@pytest.mark.parametrize("slices_kept", [99, 2, 0])
def test_every_slice_is_encoded_once_while_embeddings_fit_and_decoded_for_all_objects(monkeypatch, slices_kept):
    volume = bright_volume(depth=12)
    boxes = [[5, 15, 1, 60, 45, 7], [10, 22, 2, 40, 38, 5], [30, 10, 5, 70, 50, 10], [30, 10, 6, 70, 50, 9]]
    backend = StubBackend()
    expected = Segmentation(volume, boxes, StubBackend(), REPLICATE).labels()
    monkeypatch.setattr(module, "EMBEDDING_BYTES", slices_kept * 3 * 256 * 256 * 4)
    np.testing.assert_array_equal(Segmentation(volume, boxes, backend, REPLICATE).labels(), expected)
    # The middles are 4, 3, 7, 7: upwards 3 to 10, downwards 6, 5, 3, 2, 1. Slices 0 and 11 belong to nobody.
    assert backend.encoded == 10 + 3 - min(3, slices_kept)
    assert [len(prompts) for prompts in backend.prompts] == [1, 2, 2, 1, 3, 2, 2, 1, 2, 1, 1, 2, 1]


def test_decoding_all_boxes_gives_each_its_own_logits():
    backend = StubBackend()
    embedding = np.ones((3, 256, 256), np.float32)
    boxes = np.array([[x, 5, x + 9, 30] for x in range(0, 210, 5)], np.float32)
    for (logits, _), box in zip(decode_all(backend, embedding, boxes), boxes, strict=True):
        np.testing.assert_array_equal(logits, backend.decode(embedding, box[None])[0][0])
    full, rest = divmod(len(boxes), BOX_BATCH)
    assert full > 1 and rest > 1
    assert [len(prompts) for prompts in backend.prompts if len(prompts) > 1] == [BOX_BATCH] * full + [rest]
    assert list(decode_all(backend, embedding, boxes[:0])) == []


def test_a_backend_may_reuse_its_buffer():
    class OneBuffer(StubBackend):
        buffer = np.zeros((1, 3, 256, 256), np.float32)

        def encode(self, images):
            self.buffer[:] = images
            return self.buffer

    volume = bright_volume()
    boxes = [[5, 15, 0, 60, 45, 4], [10, 15, 2, 70, 45, 8]]
    expected = Segmentation(volume, boxes, StubBackend(), REPLICATE).labels()
    np.testing.assert_array_equal(Segmentation(volume, boxes, OneBuffer(), REPLICATE).labels(), expected)


@pytest.mark.parametrize(
    ("z_min", "z_max", "inclusive", "visited"),
    [
        (0, 8, True, [4, 5, 6, 7, 8, 3, 2, 1, 0]),
        (0, 8, False, [4, 5, 6, 7, 3, 2, 1, 0]),
        (8, 9, False, [8]),
        (4, 4, True, [4]),
        (0, 0, True, [0]),
    ],
)
def test_slices_visited(z_min, z_max, inclusive, visited):
    segs, prompts = trace(bright_volume(), [[5, 15, z_min, 70, 45, z_max]], StubBackend(), z_max_inclusive=inclusive)
    assert [z for _, z in prompts] == visited
    assert np.flatnonzero(segs.any(axis=(1, 2))).tolist() == sorted(visited)


def test_boxes_partly_outside_are_clipped_with_a_warning():
    volume = bright_volume(depth=5)
    for image, given, clipped in (
        (volume, [[-20.5, 15, -3.0, 70, 99, 9.7]], [[0, 15, 0, 70, 63, 4]]),
        (volume[0], [[5, -15, 99, 45]], [[5, 0, 79, 45]]),
    ):
        with pytest.warns(UserWarning, match="box 1 clipped to the image"):
            segs = Segmentation(image, given, StubBackend(), REPLICATE).labels()
        assert segs.any()
        np.testing.assert_array_equal(segs, Segmentation(image, clipped, StubBackend(), REPLICATE).labels())


def test_later_boxes_overwrite_earlier_ones_whatever_the_sweeps_order():
    volume = np.full((9, 32, 32), 9, np.uint8)
    # Object 1 starts high and comes down past object 2, which was finished on its way up.
    boxes = [[0, 0, 0, 20, 20, 8], [10, 10, 0, 30, 30, 3], [15, 15, 2, 25, 25, 2]]
    segs = Segmentation(volume, boxes, StubBackend(1), REPLICATE).labels()
    assert segs[1, 12, 12] == 2 and segs[1, 2, 2] == 1 and segs[2, 18, 18] == 3 and segs[6, 12, 12] == 1
    swapped = Segmentation(volume, boxes[::-1], StubBackend(1), REPLICATE).labels()
    assert swapped[1, 12, 12] == 3 and swapped[2, 18, 18] == 3


@pytest.mark.parametrize(
    ("image_shape", "boxes", "segs_shape"),
    [((20, 30, 3), [], (20, 30)), ((5, 20, 3), np.zeros((0, 6)), (5, 20, 3)), ((5, 20, 30), [], (5, 20, 30))],
)
def test_no_boxes_give_zeros_and_encode_nothing(image_shape, boxes, segs_shape):
    backend = StubBackend()
    segs = Segmentation(np.ones(image_shape, np.uint8), boxes, backend, REPLICATE).labels()
    assert segs.shape == segs_shape and segs.dtype == np.uint16 and not segs.any() and not backend.encoded


def test_sixteen_bit_volumes_are_scaled_as_a_whole():
    volume = bright_volume()
    boxes = [[5, 15, 0, 70, 45, 8]]
    wide = (volume.astype(np.uint16) - volume.min()) * 100
    low, high = int(volume.min()), int(volume.max())
    as_bytes = np.rint((volume.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    with pytest.warns(UserWarning, match="not uint8: scaled by the whole array"):
        scaled = Segmentation(wide, boxes, StubBackend(), REPLICATE)
    np.testing.assert_array_equal(
        scaled.labels(),
        Segmentation(as_bytes, boxes, StubBackend(), REPLICATE).labels(),
    )


def test_more_than_255_objects_keep_their_labels():
    image = np.full((64, 64), 9, np.uint8)
    boxes = [[1, 1, 60, 60]] * 299 + [[5, 5, 30, 30]]
    segs = Segmentation(image, boxes, StubBackend(1), REPLICATE, propagation="litemedsam").labels()
    assert set(np.unique(segs)) == {0, 299, 300}


def warned(segment):
    """Return the text of the one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = segment()
    assert len(caught) == 1
    return found, str(caught[0].message)


def test_labels_without_a_pixel_are_named_with_the_reason():
    image = np.zeros((512, 512), np.uint8)
    image[100:300, 100:300] = 200
    nested = [[100, 100, 299, 299], [98, 98, 301, 301], [96, 96, 303, 303], [10, 10, 40, 40], [400, 90, 400, 90]]
    labels, text = warned(Segmentation(Image(image, name="a"), nested, StubBackend(), REPLICATE).labels)
    assert set(np.unique(labels)) == {0, 3}
    assert text.startswith("a: 4 of 5 boxes without a pixel in the mask: labels 1-2 (overwritten by later boxes), ")
    assert "labels 4 (empty mask), labels 5 (smaller than a pixel of the 256-pixel grid, so crop" in text
    masks, text = warned(Segmentation(image, nested, StubBackend(), REPLICATE).masks)
    assert [bool(prompt.mask.any()) for prompt in masks] == [True] * 3 + [False] * 2
    assert text.startswith("2 of 5 boxes without a pixel in the mask: labels 4 (empty mask), labels 5 (smaller")


@pytest.mark.parametrize("seed", range(3))
def test_exactly_the_missing_labels_are_named(seed):
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 256, (5, 40, 40), dtype=np.uint8) * (rng.random((5, 1, 1)) < 0.6).astype(np.uint8)
    low = rng.integers(0, [36, 36, 4], (60, 3))
    boxes = np.hstack([low, low + rng.integers(0, [4, 4, 1], (60, 3))])
    labels, text = warned(Segmentation(volume, boxes, StubBackend(), REPLICATE).labels)
    named = re.findall(r"(\d+)(?:-(\d+))?(?=[,\d -]* \()", text.partition("mask: ")[2])
    missing = {label for first, last in named for label in range(int(first), int(last or first) + 1)}
    assert missing == set(range(1, 61)) - set(np.unique(labels).tolist())
    assert text.startswith(f"{len(missing)} of 60 boxes")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["labels", "masks"])
def test_logits_that_are_not_finite_are_no_empty_mask(value, method):
    class Damaged(StubBackend):
        def decode(self, embedding, grid_boxes, valid_size=None):
            logits, iou = super().decode(embedding, grid_boxes)
            logits[-1, 3, 3] = value
            return logits, iou

    segmentation = Segmentation(np.ones((20, 20), np.uint8), [[1, 1, 9, 9]], Damaged(), REPLICATE)
    with pytest.raises(ValueError, match="the model answers with NaN or infinity; required: finite"):
        getattr(segmentation, method)()


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (np.ones((20, 30), np.uint8), [[16, 16, 9, 9]], "box 1, .* is inverted"),
        (np.ones((20, 30), np.uint8), [[40, 30, 60, 50]], "box 1, .* is wholly outside"),
        (np.ones((20, 30), np.uint8), [[np.nan, 0, 6, 5]], "box 1 .* finite"),
        (np.ones((20, 30, 3), np.uint8), [[1, 2, 9, 9, 0.9, 1]], "a volume .* or a picture"),
        (Image(np.ones((20, 30, 3), np.uint8)), [[0, 0, 0, 2, 9, 9]], r"\(N,4\) in 2D"),
        (np.full((20, 30), np.nan, np.float32), [[1, 1, 9, 9]], "NaN"),
        (np.ones((20, 30), complex), [[1, 1, 9, 9]], "dtype complex"),
    ],
)
def test_python_refuses_what_a_file_is_refused_for(image, boxes, message):
    with pytest.raises(ValueError, match=message):
        Segmentation(image, boxes, StubBackend(), REPLICATE)


@pytest.mark.parametrize(
    ("image_shape", "boxes", "options", "message"),
    [
        ((20, 30), [[1, 1, 0, 9, 9, 1]], {}, "3D boxes"),
        ((2, 5, 20, 3), [[1, 1, 0, 9, 9, 1]], {}, "3D boxes"),
        ((5, 20, 30), [[1, 1, 0, 9, 9, 1], [1, 1, 3, 9, 9, 2]], {}, "box 2"),
        ((9, 9), [[1, 1, 5, 5]], {"propagation": "other"}, "propagation is 'other'"),
    ],
)
def test_what_does_not_fit_is_refused(image_shape, boxes, options, message):
    with pytest.raises(ValueError, match=message):
        Segmentation(np.ones(image_shape, np.uint8), boxes, StubBackend(), REPLICATE, **options).labels()


@pytest.mark.parametrize("propagation", ["own", "litemedsam"])
@pytest.mark.parametrize("name", ["2DBox_stub_small", "3DBox_stub_wide"])
def test_painting_the_masks_in_order_gives_the_labels(name, propagation):
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as stored:
        image, boxes = stored["in_imgs"], stored["in_boxes"]
    options = {"backend": StubBackend(), "scheme": REPLICATE, "propagation": propagation}
    labels, masks = Segmentation(image, boxes, **options).labels(), Segmentation(image, boxes, **options).masks()
    painted = np.zeros_like(labels)
    for label, prompt in enumerate(masks, start=1):
        painted[prompt.mask] = label
    np.testing.assert_array_equal(painted, labels)
    assert len(masks) == len(boxes) and labels.any()
    canvas = Canvas(*(image.shape[1:] if boxes.shape[1] == 6 else image.shape[:2]), 256)
    for prompt, box in zip(masks, boxes, strict=True):
        assert prompt.slices == (range(box[2], box[5] + 1) if len(box) == 6 else range(1))
        for place, z in enumerate(prompt.slices if len(box) == 6 else [...]):
            logits, iou = (prompt.logits[place], prompt.iou[place]) if len(box) == 6 else (prompt.logits, prompt.iou)
            assert logits.shape == (canvas.resized_height, canvas.resized_width) and iou == 0
            np.testing.assert_array_equal(mask_to_native(logits, canvas), prompt.mask[z])
