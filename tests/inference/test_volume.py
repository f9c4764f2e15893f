"""The volume engine, driven by the goldens' stub network: traces of the original loops, then promises."""

from pathlib import Path

import numpy as np
import pytest

from graysam.imaging.canvas import Canvas, boxes_to_grid
from graysam.imaging.masks import mask_to_native
from graysam.imaging.presets import load_scheme
from graysam.inference.backend import BOX_BATCH, decode_all
from graysam.inference.volume import Walk, segment

GOLDENS = Path(__file__).parents[1] / "goldens" / "e2e"
E2E_FILES = sorted(path.stem for path in GOLDENS.glob("*.npz"))
REPLICATE = load_scheme("replicate")


class StubBackend:
    """The goldens' network (README section 7): a box holds what is brighter than 0.4 inside it."""

    def __init__(self) -> None:
        self.encode_batches: list[int] = []
        self.decode_batches: list[int] = []

    def encode(self, images):
        self.encode_batches.append(len(images))
        return images

    def decode(self, embedding, grid_boxes, valid_size=None):
        self.decode_batches.append(len(grid_boxes))
        inside_logits = (16 * (embedding.mean(axis=0, dtype=np.float64) - 0.40)).astype(np.float32)
        y, x = np.mgrid[: embedding.shape[1], : embedding.shape[2]]
        x0, y0, x1, y1 = grid_boxes.T[:, :, None, None]
        inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
        return np.where(inside, inside_logits, np.float32(-8)), np.zeros(len(grid_boxes), np.float32)


class FullBoxBackend(StubBackend):
    """Every box is full of object."""

    def decode(self, embedding, grid_boxes, valid_size=None):
        return super().decode(np.ones_like(embedding), grid_boxes)


class EmptyBackend(StubBackend):
    """No box holds anything."""

    def decode(self, embedding, grid_boxes, valid_size=None):
        return super().decode(np.zeros_like(embedding), grid_boxes)


def trace(image, boxes, backend, scheme=REPLICATE, **options):
    """Return segs and the prompts (label, z, box) in the original order: by object, upwards, downwards."""
    walk = Walk(image, boxes, backend, scheme, **options)
    prompts, visits = [], walk.visits

    def recorded():
        for visit in visits():
            prompts.append((visit.label, visit.z, visit.prompt))
            yield visit

    walk.visits = recorded
    segs = walk.labels()

    def order(prompt):
        label, z, _ = prompt
        z_min, z_max = (boxes[label - 1][2], boxes[label - 1][5]) if len(boxes[0]) == 6 else (0, 0)
        z_mid = int((z_max - z_min) / 2 + z_min)
        return label, z < z_mid, abs(z - z_mid)

    return segs, sorted(prompts, key=order)


def bright_volume(depth=9, height=64, width=80):
    """Return a volume with a bright tilted bar on noise."""
    volume = np.random.default_rng(0).integers(0, 60, (depth, height, width), dtype=np.uint8)
    for z in range(depth):
        volume[z, 20:40, 10 + 3 * z : 40 + 3 * z] += 150
    return volume


@pytest.mark.parametrize("name", E2E_FILES)
@pytest.mark.parametrize(
    "golden, scheme",
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
    np.testing.assert_array_equal(np.stack([box for _, _, box in prompts]), case[f"stub_boxes_{golden}"])
    expected = case[f"stub_segs_{golden}"]
    assert segs.dtype == np.uint16 and segs.shape == expected.shape
    assert (segs != expected).mean() <= 0.0005


def test_own_propagation_prompts_with_the_grown_low_resolution_box():
    volume = np.full((3, 128, 256), 10, np.uint8)
    volume[:, 40:60, 100:140] = 200
    segs, prompts = trace(volume, [[90, 30, 0, 150, 70, 2]], StubBackend())
    boxes = {z: box.tolist() for _, z, box in prompts}
    assert boxes == {1: [90, 30, 150, 70], 2: [97, 37, 142, 62], 0: [97, 37, 142, 62]}
    np.testing.assert_array_equal(segs, (volume > 100).astype(np.uint16))


def test_own_boxes_stay_within_the_pixels_of_the_given_box():
    # Two grid pixels a native one. The middle slice's object fills the box; above it the stub finds nothing new, so the
    # box grown by 3 would leave native columns 20 to 39 and rows 10 to 29: grid 40 to 79 and 20 to 59.
    _, prompts = trace(np.zeros((5, 64, 128), np.uint8), [[20, 10, 0, 39, 29, 4]], FullBoxBackend())
    boxes = {z: box.tolist() for _, z, box in prompts}
    assert boxes[2] == [40, 20, 78, 58]
    assert boxes[3] == boxes[1] == [40, 20, 79, 59]
    assert boxes[4] == boxes[0] == [40, 20, 79, 59]


class AsideBackend(StubBackend):
    """The object always lies in the grid's last corner, whatever the box."""

    def decode(self, embedding, grid_boxes, valid_size=None):
        logits = np.full((len(grid_boxes), *embedding.shape[1:]), -8, np.float32)
        logits[:, 100:120, 230:250] = 8
        return logits, np.zeros(len(grid_boxes), np.float32)


def test_a_mask_outside_of_the_given_box_gives_no_prompt():
    _, prompts = trace(np.zeros((3, 64, 128), np.uint8), [[20, 10, 0, 39, 29, 2]], AsideBackend())
    assert [box.tolist() for _, _, box in prompts] == [[40, 20, 78, 58]] * 3
    _, prompts = trace(np.zeros((3, 64, 128), np.uint8), [[100, 10, 0, 120, 55, 2]], AsideBackend())
    assert [box.tolist() for _, _, box in prompts] == [[200, 20, 240, 110], [227, 97, 241, 111], [227, 97, 241, 111]]


def test_own_boxes_stay_on_the_image():
    # The object fills the 64 x 80 image: 205 x 256 on the grid, so no box may pass row 204 or column 255.
    _, prompts = trace(np.zeros((3, 64, 80), np.uint8), [[0, 0, 0, 79, 63, 2]], FullBoxBackend())
    assert Canvas(64, 80, 256).resized_height == 205
    assert max(box[3] for _, _, box in prompts) <= 204 and max(box[2] for _, _, box in prompts) <= 255


def test_own_ignores_other_objects_and_the_label():
    volume = bright_volume()
    bar = [5, 15, 1, 60, 45, 7]
    others = [[0, 0, 0, 79, 63, 8], [10, 22, 2, 40, 38, 5], [30, 10, 3, 70, 50, 8]]
    alone, prompts_alone = trace(volume, [bar], StubBackend())
    _, prompts_among = trace(volume, [*others, bar], StubBackend())
    among = [(z, box.tolist()) for label, z, box in prompts_among if label == 4]
    assert among == [(z, box.tolist()) for _, z, box in prompts_alone]
    together = segment(volume, [*others, bar], StubBackend(), REPLICATE)
    np.testing.assert_array_equal(together == 4, alone == 1)  # the last box overwrites all others


def test_litemedsam_boxes_depend_on_the_label_and_own_ones_do_not():
    volume = bright_volume(height=300, width=400)
    box = [20, 15, 0, 90, 45, 8]
    differing = {}
    for propagation in ("own", "litemedsam"):
        _, prompts = trace(volume, [box] * 5, StubBackend(), propagation=propagation)
        per_label = [[b.tolist() for label, _, b in prompts if label == k] for k in range(1, 6)]
        differing[propagation] = sum(boxes != per_label[0] for boxes in per_label)
    assert differing == {"own": 0, "litemedsam": 4}


@pytest.mark.parametrize("propagation", ["own", "litemedsam"])
def test_an_empty_mask_falls_back_to_the_given_box(propagation):
    boxes = [[5, 5, 0, 30, 30, 4]]
    segs, prompts = trace(bright_volume(), boxes, EmptyBackend(), propagation=propagation)
    given = boxes_to_grid([[5, 5, 30, 30]], 64, 80, 256)[0]
    assert [z for _, z, _ in prompts] == [2, 3, 4, 1, 0]
    assert all(np.array_equal(box, given) for _, _, box in prompts) and not segs.any()


def test_the_fallback_lasts_only_while_the_mask_is_empty():
    volume = bright_volume(depth=5)
    volume[3] = 0  # nothing on slice 3
    _, prompts = trace(volume, [[5, 5, 0, 70, 60, 4]], StubBackend())
    boxes = {z: box.tolist() for _, z, box in prompts}
    assert boxes[2] == boxes[4] and boxes[3] != boxes[2] and boxes[1] == boxes[3]


@pytest.mark.parametrize("embedding_bytes", [2 << 30, 0, 2 * 3 * 256 * 256 * 4])
def test_every_slice_is_encoded_once(embedding_bytes):
    volume = bright_volume(depth=12)
    boxes = [[5, 15, 1, 60, 45, 7], [10, 22, 2, 40, 38, 5], [30, 10, 5, 70, 50, 10], [30, 10, 6, 70, 50, 9]]
    backend = StubBackend()
    segs = segment(volume, boxes, backend, REPLICATE, embedding_bytes=embedding_bytes)
    needed = 10  # slices 1 to 10; 0 and 11 belong to nobody
    needed_twice = 3  # the middles are 4, 3, 7, 7: upwards 3 to 10, downwards 1, 2, 3, 5, 6
    kept = min(needed_twice, embedding_bytes // (3 * 256 * 256 * 4))
    assert sum(backend.encode_batches) == needed + needed_twice - kept
    assert set(backend.encode_batches) == {1}
    assert sum(backend.decode_batches) == 7 + 4 + 6 + 4
    np.testing.assert_array_equal(segs, segment(volume, boxes, StubBackend(), REPLICATE))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_embeddings_are_kept_as_the_backend_gave_them(dtype):
    class Narrow(StubBackend):
        def __init__(self):
            super().__init__()
            self.seen = []

        def encode(self, images):
            return super().encode(images).astype(dtype)

        def decode(self, embedding, grid_boxes, valid_size=None):
            self.seen.append((embedding.dtype, float(embedding.astype(float).sum())))
            return super().decode(embedding, grid_boxes)

    volume, backend = bright_volume(), Narrow()
    two_slices = 2 * 3 * 256 * 256 * np.dtype(dtype).itemsize
    boxes = [[5, 15, 0, 60, 45, 4], [10, 15, 2, 70, 45, 8]]  # upwards 2 to 8, downwards 0, 1, 2, 3, 4
    segment(volume, boxes, backend, REPLICATE, embedding_bytes=two_slices)
    assert sum(backend.encode_batches) == 9 + 3 - 2
    up, down = backend.seen[:7], backend.seen[7:]
    assert {kind for kind, _ in backend.seen} == {np.dtype(dtype)}
    assert [total for _, total in down[:3]] == [total for _, total in up[2::-1]]


def test_objects_that_share_a_slice_are_decoded_together_in_both_sweeps():
    backend = StubBackend()
    boxes = [[5, 15, 0, 60, 45, 8], [10, 15, 0, 70, 45, 8], [10, 15, 0, 70, 45, 8], [10, 15, 4, 70, 45, 4]]
    segment(bright_volume(), boxes, backend, REPLICATE)
    assert backend.decode_batches == [4] + [3] * 8
    assert backend.encode_batches == [1] * 9


def test_decoding_all_boxes_gives_each_its_own_logits():
    backend = StubBackend()
    embedding = np.ones((3, 256, 256), np.float32)
    boxes = np.array([[x, 5, x + 9, 30] for x in range(0, 210, 5)], np.float32)
    for (logits, _), box in zip(decode_all(backend, embedding, boxes), boxes, strict=True):
        np.testing.assert_array_equal(logits, backend.decode(embedding, box[None])[0][0])
    full, rest = divmod(len(boxes), BOX_BATCH)
    assert full > 1 and rest > 1
    assert [n for n in backend.decode_batches if n > 1] == [BOX_BATCH] * full + [rest]
    assert list(decode_all(backend, embedding, boxes[:0])) == []


def test_a_backend_may_leave_out_what_the_image_does_not_cover():
    asked = set()

    class Frugal(StubBackend):
        def decode(self, embedding, grid_boxes, valid_size=None):
            logits, iou = super().decode(embedding, grid_boxes)
            asked.add(valid_size)
            return logits[:, : valid_size[0], : valid_size[1]].copy(), iou

    image = np.zeros((60, 90), np.uint8)
    image[20:50, 30:70] = 200
    expected = segment(image, [[25, 15, 80, 55]], StubBackend(), REPLICATE)
    np.testing.assert_array_equal(segment(image, [[25, 15, 80, 55]], Frugal(), REPLICATE), expected)
    assert expected.any() and asked == {(171, 256)}


def test_a_backend_may_reuse_its_buffer():
    class OneBuffer(StubBackend):
        buffer = np.zeros((1, 3, 256, 256), np.float32)

        def encode(self, images):
            self.buffer[:] = images
            return self.buffer

    volume = bright_volume()
    boxes = [[5, 15, 0, 60, 45, 4], [10, 15, 2, 70, 45, 8]]
    expected = segment(volume, boxes, StubBackend(), REPLICATE)
    np.testing.assert_array_equal(segment(volume, boxes, OneBuffer(), REPLICATE), expected)


def test_an_image_is_encoded_once_and_decoded_in_chunks():
    backend = StubBackend()
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    segment(image, [[1, 2, 30, 30]] * 17, backend, REPLICATE)
    assert backend.encode_batches == [1] and backend.decode_batches == [8, 8, 1]


@pytest.mark.parametrize("z", [0, 4, 8])
def test_single_slice_objects(z):
    volume = bright_volume()
    segs, prompts = trace(volume, [[5, 15, z, 70, 45, z]], StubBackend())
    assert [prompt[1] for prompt in prompts] == [z]
    assert segs[z].any() and not np.delete(segs, z, axis=0).any()


def test_end_slices_are_visited_and_z_max_may_be_exclusive():
    volume, boxes = bright_volume(), [[5, 15, 0, 70, 45, 8]]
    _, prompts = trace(volume, boxes, StubBackend())
    assert [z for _, z, _ in prompts] == [4, 5, 6, 7, 8, 3, 2, 1, 0]
    segs, prompts = trace(volume, boxes, StubBackend(), z_max_inclusive=False)
    assert [z for _, z, _ in prompts] == [4, 5, 6, 7, 3, 2, 1, 0]
    assert not segs[8].any()
    _, prompts = trace(volume, [[5, 15, 8, 70, 45, 9]], StubBackend(), z_max_inclusive=False)
    assert [z for _, z, _ in prompts] == [8]
    image = segment(volume[0], [[5, 15, 60, 45]], StubBackend(), REPLICATE, z_max_inclusive=False)
    assert image.any()  # an image has no z to read either way


def test_z_is_clipped_to_the_volume_and_floats_are_truncated():
    volume = bright_volume(depth=5)
    with pytest.warns(UserWarning, match="clipped"):
        _, prompts = trace(volume, [[5.5, 15.2, -3.0, 70.9, 45.0, 9.7]], StubBackend())
    assert sorted(z for _, z, _ in prompts) == [0, 1, 2, 3, 4]
    middle_box = next(box for _, z, box in prompts if z == 2)
    np.testing.assert_array_equal(middle_box, boxes_to_grid([[5.5, 15.2, 70.9, 45.0]], 64, 80, 256)[0])


def test_later_boxes_overwrite_earlier_ones_whatever_the_sweeps_order():
    volume = np.full((9, 32, 32), 9, np.uint8)
    # Object 1 starts high and comes down past object 2, which was finished on its way up.
    boxes = [[0, 0, 0, 20, 20, 8], [10, 10, 0, 30, 30, 3], [15, 15, 2, 25, 25, 2]]
    segs = segment(volume, boxes, FullBoxBackend(), REPLICATE)
    assert segs[1, 12, 12] == 2 and segs[1, 2, 2] == 1 and segs[2, 18, 18] == 3 and segs[6, 12, 12] == 1
    swapped = segment(volume, boxes[::-1], FullBoxBackend(), REPLICATE)
    assert swapped[1, 12, 12] == 3 and swapped[2, 18, 18] == 3


@pytest.mark.parametrize(
    "image_shape, boxes, segs_shape",
    [
        ((20, 30), np.zeros((0, 4)), (20, 30)),
        ((20, 30, 3), np.zeros((0, 4), np.int64), (20, 30)),
        ((20, 30, 3), [], (20, 30)),
        ((5, 20, 30), [], (5, 20, 30)),
        ((5, 20, 30), np.zeros((0, 6)), (5, 20, 30)),
        ((5, 20, 3), np.zeros((0, 6)), (5, 20, 3)),
        ((5, 20, 30), np.zeros((0, 4)), (5, 20, 30)),
    ],
)
def test_no_boxes_give_zeros_and_encode_nothing(image_shape, boxes, segs_shape):
    backend = StubBackend()
    segs = segment(np.ones(image_shape, np.uint8), boxes, backend, REPLICATE)
    assert segs.shape == segs_shape and segs.dtype == np.uint16 and not segs.any() and not backend.encode_batches


def test_the_boxes_decide_between_colour_and_volume():
    image = np.random.default_rng(2).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    assert segment(image, [[1, 1, 9, 9]], StubBackend(), REPLICATE).shape == (16, 20)
    assert segment(image, [[0, 1, 2, 2, 9, 5]], StubBackend(), REPLICATE).shape == (16, 20, 3)
    assert segment(image[..., :1], [[1, 1, 9, 9]], StubBackend(), REPLICATE).shape == (16, 20)


def test_sixteen_bit_volumes_are_scaled_as_a_whole():
    volume = bright_volume()
    boxes = [[5, 15, 0, 70, 45, 8]]
    wide = (volume.astype(np.uint16) - volume.min()) * 100
    low, high = int(volume.min()), int(volume.max())
    as_bytes = np.rint((volume.astype(float) - low) / (high - low) * 255).astype(np.uint8)
    np.testing.assert_array_equal(
        segment(wide, boxes, StubBackend(), REPLICATE), segment(as_bytes, boxes, StubBackend(), REPLICATE)
    )


def test_more_than_255_objects_keep_their_labels():
    image = np.full((64, 64), 9, np.uint8)
    boxes = [[1, 1, 60, 60]] * 299 + [[5, 5, 30, 30]]
    segs = segment(image, boxes, FullBoxBackend(), REPLICATE, propagation="litemedsam")
    assert set(np.unique(segs)) == {0, 299, 300}


def test_progress_counts_slices_of_both_sweeps():
    seen = []
    segment(
        bright_volume(),
        [[5, 15, 0, 70, 45, 8]],
        StubBackend(),
        REPLICATE,
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize(
    "image_shape, boxes, message",
    [
        ((5, 20, 30), [[1, 1, 9, 9]], "2D boxes"),
        ((20, 30), [[1, 1, 0, 9, 9, 1]], "3D boxes"),
        ((2, 5, 20, 3), [[1, 1, 0, 9, 9, 1]], "3D boxes"),
        ((20, 30), [[1, 1, 9]], r"\(N,4\)"),
        ((20, 30), [1, 1, 9, 9], r"\(N,4\)"),
        ((20, 30), [["a", "b", "c", "d"]], r"\(N,4\)"),
        ((20, 30), [[1, 1, np.nan, 9]], "finite"),
        ((20, 30), [[9, 1, 1, 9]], "box 1, .* is inverted"),
        ((20, 30), [[1, 1, 9, 9], [1, 20, 9, 25]], "box 2, .* is wholly outside"),
        ((0, 30), [[1, 1, 9, 9]], "at least one pixel"),
        ((5, 20, 30), [[1, 1, 5, 9, 9, 7]], "box 1, .* is wholly outside"),
        ((5, 20, 30), [[1, 1, 0, 9, 9, 1], [1, 1, 3, 9, 9, 2]], "box 2"),
        ((20, 30), np.zeros((65536, 4)), "65535"),
    ],
)
def test_what_does_not_fit_is_refused(image_shape, boxes, message):
    with pytest.raises(ValueError, match=message):
        segment(np.ones(image_shape, np.uint8), boxes, StubBackend(), REPLICATE)


def test_boxes_partly_outside_are_clipped_with_a_warning():
    volume = bright_volume(depth=5)
    for image, given, clipped in (
        (volume, [[-20, 15, -3, 70, 99, 9]], [[0, 15, 0, 70, 63, 4]]),
        (volume[0], [[5, -15, 99, 45]], [[5, 0, 79, 45]]),
    ):
        with pytest.warns(UserWarning, match="box 1 clipped to the image"):
            segs = segment(image, given, StubBackend(), REPLICATE)
        assert segs.any()
        np.testing.assert_array_equal(segs, segment(image, clipped, StubBackend(), REPLICATE))


def test_an_unknown_propagation_is_refused():
    with pytest.raises(ValueError, match="propagation is 'other'"):
        segment(np.ones((9, 9), np.uint8), [[1, 1, 5, 5]], StubBackend(), REPLICATE, propagation="other")


@pytest.mark.parametrize("propagation", ["own", "litemedsam"])
@pytest.mark.parametrize("name", ["2DBox_stub_small", "3DBox_stub_wide"])
def test_painting_the_masks_in_order_gives_the_labels(name, propagation):
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as stored:
        image, boxes = stored["in_imgs"], stored["in_boxes"]
    options = {"backend": StubBackend(), "scheme": REPLICATE, "propagation": propagation}
    labels, masks = segment(image, boxes, **options), Walk(image, boxes, **options).masks()
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


def test_masks_of_overlapping_objects_keep_their_own_pixels():
    image = np.full((64, 64), 9, np.uint8)
    whole, part = Walk(image, [[0, 0, 60, 60], [10, 10, 30, 30]], FullBoxBackend(), REPLICATE).masks()
    assert (whole.mask & part.mask).sum() == part.mask.sum() > 0
    assert Walk(image, [], FullBoxBackend(), REPLICATE).masks() == []
