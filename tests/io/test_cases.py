"""Case files: what is read is what was stored, and whatever is wrong is one line of CaseError."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graysam.io import npz
from graysam.io.cases import read_gts, read_input_case, read_training_case, training_name
from graysam.io.image import modality_of
from graysam.io.npz import CaseError
from tests.support.commands import Trap

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
VOLUME = RNG.integers(0, 256, (5, 20, 30), dtype=np.uint8)
BOX_2D = [[1, 2, 10, 12]]
BOX_3D = [[1, 2, 0, 10, 12, 4]]


def save(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **{key: np.asarray(value) for key, value in arrays.items()})  # type: ignore[arg-type]
    return path


def save_member(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def forged_npy(header: str, payload: bytes = b"") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + payload


def refused(read: Callable[..., Any], path: Path, *words: str, **options: Any) -> None:
    with pytest.raises(CaseError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("name", "imgs", "boxes", "spacing"),
    [("2DBox_US_0001", COLOUR, BOX_2D, None), ("3DBox_CT_7", VOLUME, BOX_3D, (3.0, 0.5, 0.25))],
)
def test_a_case_comes_back_as_stored(tmp_path: Path, name: str, imgs: np.ndarray, boxes: Any, spacing: Any) -> None:
    stored = {"imgs": imgs, "boxes": np.array(boxes, np.int32)} | ({"spacing": spacing} if spacing else {})
    case = read_input_case(save(tmp_path / f"{name}.npz", **stored))
    image = case.image
    assert (image.name, image.modality, image.is_volume, image.spacing_mm) == (name, name[6:8], bool(spacing), spacing)
    assert np.array_equal(image.pixels, imgs)
    assert image.pixels.dtype == np.uint8
    assert case.boxes.tolist() == boxes
    assert case.boxes.dtype == np.int64
    assert case.gts is None
    assert case.notes == ()


def test_training_case_and_spacing_orders(tmp_path: Path) -> None:
    gts = (VOLUME > 200).astype(np.uint8)
    path = save(tmp_path / "MR_STS_STS001.npz", imgs=VOLUME, gts=gts, spacing=[0.25, 0.5, 3.0])
    case = read_training_case(path, "xyz")
    assert (case.image.spacing_mm, case.image.modality, case.image.is_volume) == ((3.0, 0.5, 0.25), "MR", True)
    assert np.array_equal(case.gts, gts)
    assert read_training_case(path).image.spacing_mm == (0.25, 0.5, 3.0)
    assert read_gts(path)[1] == (0.25, 0.5, 3.0)
    assert read_gts(path, "xyz")[1] == (3.0, 0.5, 0.25)
    flat = save(tmp_path / "US_HC18_1.npz", imgs=COLOUR, gts=gts[0])
    assert not read_training_case(flat).image.is_volume
    assert read_gts(flat)[1] is None


@pytest.mark.parametrize(("name", "modality"), [("3DBox_CT_a_b", "CT"), ("CT_STS_1", "unknown"), ("2DBox", "unknown")])
def test_modality_is_the_second_field(name: str, modality: str) -> None:
    assert modality_of(name) == modality


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("CT_STS_STS001", ("CT", "STS", "STS001")),
        ("MR_BraTS_T1_0001", ("MR", "BraTS", "T1_0001")),
        ("US_0001", ("US", "unknown", "0001")),
        ("scan", ("unknown", "unknown", "scan")),
        ("2DBox_US_HC18_3", ("US", "HC18", "3")),
    ],
)
def test_training_names(name: str, fields: tuple[str, str, str]) -> None:
    assert tuple(training_name(name)) == fields


@pytest.mark.parametrize(
    ("name", "shape", "boxes", "spacing", "is_volume"),
    [
        ("a", (9, 8), np.zeros((0, 4)), None, False),
        ("a", (9, 8), np.zeros(0), None, False),
        ("a", (9, 8, 3), np.zeros(0), None, False),
        ("3DBox_CT_1", (9, 8, 3), np.zeros(0), None, True),
        ("a", (9, 8, 3), np.zeros(0), [1, 1, 1], True),
        ("a", (9, 8, 3), np.zeros((0, 6)), None, True),
        ("a", (9, 8, 3), np.array([[0, 0, 0, 1, 1, 1]], np.float64), None, True),
        ("3DBox_CT_1", (9, 8, 3), np.array([[0, 0, 1, 1]], np.float64), None, False),
        ("a", (9, 8, 7), np.zeros((0, 4)), None, True),
        ("a", (9, 8, 1), np.array([[0, 0, 1, 1]], np.float64), None, False),
    ],
)
def test_arrays_decide_and_the_prefix_where_both_fit(
    tmp_path: Path, name: str, shape: tuple[int, ...], boxes: np.ndarray, spacing: Any, is_volume: bool
) -> None:
    arrays = {"imgs": np.zeros(shape, np.uint8), "boxes": boxes}
    path = save(tmp_path / f"{name}.npz", **arrays, **({} if spacing is None else {"spacing": np.float64(spacing)}))
    case = read_input_case(path)
    assert case.image.is_volume is is_volume
    assert case.boxes.shape[1] == (6 if is_volume else 4)
    if shape[-1] == 1:
        assert case.image.pixels.shape == shape[:2]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, ">u2", np.float32])
def test_wider_images_pass_with_a_note(tmp_path: Path, dtype: Any) -> None:
    image = np.arange(600).reshape(20, 30).astype(dtype)
    case = read_input_case(save(tmp_path / "a.npz", imgs=np.asfortranarray(image), boxes=BOX_2D))
    assert np.array_equal(case.image.pixels, image)
    assert case.image.pixels.dtype.isnative
    assert len(case.notes) == 1
    assert "not uint8" in case.notes[0]


def test_boxes_are_clipped_and_noted_beyond_one_past_the_last_pixel(tmp_path: Path) -> None:
    """The challenge's own tool writes x_max = W, and such boxes go to the grid as they are."""
    boxes = [[-3, -4, 5, 6], [2, 2, 30, 20], [20, 10, 30, 40], [20, 10, 31, 12]]
    case = read_input_case(save(tmp_path / "a.npz", imgs=COLOUR, boxes=boxes))
    assert case.boxes.tolist() == [[0, 0, 5, 6], [2, 2, 30, 20], [20, 10, 30, 19], [20, 10, 29, 12]]
    assert [note.split()[1] for note in case.notes] == ["1", "3", "4"]


def test_exclusive_z_max_may_be_the_depth(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", imgs=VOLUME, boxes=[[0, 0, 3, 5, 5, 5]])
    for z_max_inclusive, z_max, notes in ((True, 4, 1), (False, 5, 0)):
        case = read_input_case(path, z_max_inclusive=z_max_inclusive)
        assert case.boxes[0, 5] == z_max
        assert len(case.notes) == notes
    empty = save(tmp_path / "b.npz", imgs=VOLUME, boxes=[[0, 0, 3, 5, 5, 3]])
    assert read_input_case(empty).boxes is not None
    refused(read_input_case, empty, "inverted", z_max_inclusive=False)


@pytest.mark.parametrize(
    ("boxes", "word"),
    [
        ([[10, 2, 1, 12]], "inverted"),
        ([[30, 2, 40, 12]], "outside"),
        (np.array([[2**63 + 5, 2, 2**63 + 9, 12]], np.uint64), "outside"),
        ([[1, np.nan, 10, 12]], "finite"),
        ([[1, 2, 3]], "shape"),
        ([[[1, 2, 10, 12]]], "rank"),
        ([["1", "2", "10", "12"]], "dtype"),
        (np.ones((65536, 4), np.uint8), "at most 65535"),
    ],
)
def test_bad_boxes_are_refused(tmp_path: Path, boxes: Any, word: str) -> None:
    refused(read_input_case, save(tmp_path / "2DBox_US_1.npz", imgs=COLOUR, boxes=boxes), word, "required")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"imgs": COLOUR}, ("boxes",)),
        ({"boxes": BOX_2D}, ("imgs",)),
        ({"imgs": COLOUR[None], "boxes": BOX_2D}, ("rank",)),
        ({"imgs": np.zeros((20, 30, 4), np.uint8), "boxes": BOX_2D}, ("(20, 30, 4)", "alpha")),
        ({"imgs": COLOUR[:, :, 0], "boxes": BOX_3D}, ("(D,H,W)",)),
        ({"imgs": VOLUME, "boxes": BOX_2D}, ("(5, 20, 30)",)),
        ({"imgs": np.zeros((0, 30), np.uint8), "boxes": np.zeros((0, 4))}, ("pixel",)),
        ({"imgs": np.full((20, 30), np.nan), "boxes": BOX_2D}, ("NaN",)),
        ({"imgs": COLOUR.astype(complex), "boxes": BOX_2D}, ("dtype complex",)),
    ],
)
def test_bad_input_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(read_input_case, save(tmp_path / "case.npz", **arrays), "required", *words)


@pytest.mark.parametrize(
    "spacing", [[-5, 1, 1], 1.0, np.array(None, object), [1, 1], [1, np.inf, 1], [0, 0, 0], [1, np.nan, 1], ["a"] * 3]
)
def test_a_spacing_that_is_none_is_noted_where_it_is_not_needed(tmp_path: Path, spacing: Any) -> None:
    gts = np.ones(VOLUME.shape, np.uint8)
    path = save(tmp_path / "3DBox_CT_1.npz", imgs=VOLUME, boxes=BOX_3D, gts=gts, spacing=spacing)
    for case in (read_input_case(path), read_training_case(path)):
        assert case.image.spacing_mm is None
        assert len(case.notes) == 1 and case.notes[0].startswith("not used: spacing ")
    assert read_gts(path, None)[1] is None
    refused(read_gts, path, "spacing h" if np.ndim(spacing) == 0 else "spacing ", "required")


def test_a_name_that_contradicts_the_arrays_is_noted(tmp_path: Path) -> None:
    for name, arrays in (
        ("2DBox_CT_1", {"imgs": VOLUME, "boxes": BOX_3D}),
        ("3DBox_US_1", {"imgs": COLOUR, "boxes": BOX_2D}),
    ):
        (note,) = read_input_case(save(tmp_path / f"{name}.npz", **arrays)).notes
        assert note.startswith(f"the name says {name[:2]}, but the arrays are")


@pytest.mark.parametrize("read", [read_training_case, read_gts])
@pytest.mark.parametrize("gts_shape", [(20, 30, 3), (20, 30, 1), (20, 30, 4), (1, 20, 30), (3, 20, 30)])
def test_masks_with_channels_are_never_taken_for_a_volume(
    tmp_path: Path, read: Callable[..., Any], gts_shape: tuple[int, ...]
) -> None:
    arrays = {"imgs": np.zeros(gts_shape, np.uint8), "gts": np.ones(gts_shape, np.uint8)}
    for name in ("US_A_1", "2DBox_US_1"):
        refused(read, save(tmp_path / f"{name}.npz", **arrays), f"gts of shape {gts_shape}", "picture", "3DBox_")
    read(save(tmp_path / "3DBox_US_1.npz", **arrays))
    read(save(tmp_path / "US_A_2.npz", **arrays, spacing=[1, 1, 1]))


@pytest.mark.parametrize(
    ("gts", "word"),
    [
        (np.zeros((20, 29), np.uint8), "same grid"),
        (np.zeros((20, 30), np.float32), "dtype"),
        (np.full((20, 30), -1), "labels"),
    ],
)
def test_bad_gts_are_refused(tmp_path: Path, gts: np.ndarray, word: str) -> None:
    path = save(tmp_path / "US_A_1.npz", imgs=COLOUR, gts=gts)
    refused(read_training_case, path, word)
    refused(read_training_case, save(tmp_path / "US_A_2.npz", imgs=COLOUR), "gts")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz", imgs=COLOUR, boxes=BOX_2D).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    for content in (b"", whole[: len(whole) // 2], b"not a zip at all", flipped):
        (tmp_path / "bad.npz").write_bytes(content)
        refused(read_input_case, tmp_path / "bad.npz", "truncated, damaged or not an NPZ")
    for content in (b"plain bytes", b"\x93NUMPY\x01\x00\xff"):
        refused(read_input_case, save_member(tmp_path / "bad.npz", "imgs.npy", content), "no readable NPY array")
    refused(read_input_case, tmp_path / "absent.npz", "no such file")
    refused(read_input_case, tmp_path)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    objects = np.empty(1, object)
    objects[0] = Trap(planted)
    path = save(tmp_path / "a.npz", imgs=COLOUR, boxes=objects)
    refused(read_input_case, path, "pickled")
    assert not planted.exists()
    with np.load(path, allow_pickle=True) as stored:  # the trap is real
        stored["boxes"][0].close()
    assert planted.exists()


def test_size_bomb_in_the_header_allocates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }"
    lying = save_member(tmp_path / "lying.npz", "imgs.npy", forged_npy(header % "4096, 1048576, 1024", b"\0" * 1024))
    refused(read_input_case, lying, "asks for", "1024 are there")
    honest = save(tmp_path / "honest.npz", imgs=np.zeros((64, 1024, 1024), np.uint8), boxes=BOX_3D)
    monkeypatch.setattr(npz, "MAX_BYTES", 64 * 1024**2 - 1)
    refused(read_input_case, honest, "67108864 bytes")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 99999999999999999999, 3), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -1), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (1, 1), }",
        "{'descr': '|u1'}",
        "(((((",
        " " * 12000,
    ],
)
def test_forged_headers_are_refused(tmp_path: Path, header: str) -> None:
    refused(read_input_case, save_member(tmp_path / "a.npz", "imgs.npy", forged_npy(header, b"\0")))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_a_case_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.npz"
    content = bytearray(save(path, imgs=COLOUR, boxes=BOX_2D).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    message = ""
    try:
        read_input_case(path)
    except CaseError as error:
        message = str(error)
    assert "\n" not in message
