"""Images from NPZ and pictures, and masks back into files: what is stored comes back exactly."""

import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.io.cases import read_segs
from graysam.io.image import Image, read_image, write_mask
from graysam.io.npz import CaseError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
VOLUME = RNG.integers(0, 256, (5, 20, 30), dtype=np.int16)
LABELS = (np.arange(600).reshape(20, 30) * 100).astype(np.int64)  # up to 59900


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".npz", ".jpg"])
@pytest.mark.parametrize("pixels", [GREY, GREY.astype(np.uint16) * 257, COLOUR], ids=["grey", "wide", "colour"])
def test_pictures_are_known_by_their_content(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"2DBox_US_1{suffix}"
    if suffix == ".npz":
        np.savez(path, imgs=pixels)
    elif suffix in (".bmp", ".jpg") and pixels.dtype != np.uint8:
        return  # a format of 8 bits
    else:
        cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    path = path.rename(tmp_path / "2DBox_US_1")
    image = read_image(path)
    assert (image.name, image.modality, image.is_volume, image.spacing_mm) == ("2DBox_US_1", "US", False, None)
    assert (image.pixels.dtype, image.pixels.shape, image.grid) == (pixels.dtype, pixels.shape, (20, 30))
    if suffix != ".jpg":
        np.testing.assert_array_equal(image.pixels, pixels)


def test_later_pages_of_a_tiff_are_noted(tmp_path: Path) -> None:
    cv2.imwritemulti(str(tmp_path / "a.tif"), [GREY, GREY + 1, GREY])
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, GREY)
    assert image.notes == ("only page 1 of 3 is read; save the others as files",)


@pytest.mark.parametrize(
    ("pixels", "more", "word"),
    [
        (np.full((4, 4), np.nan, np.float32), {}, "NaN"),
        (np.array([[1, np.inf]]), {}, "infinity"),
        (np.ones((4, 4), complex), {}, "dtype complex"),
        (np.ones((4, 4), object), {}, "dtype object"),
        (VOLUME, {}, "shape"),
        (np.ones((0, 4), np.uint8), {}, "shape"),
        (VOLUME, {"is_volume": True, "spacing_mm": (1, 0, 1)}, "spacing is"),
        (VOLUME, {"is_volume": True, "spacing_mm": (1, 1e300, 1)}, "spacing is"),
    ],
)
def test_an_image_checks_itself(pixels: np.ndarray, more: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Image(pixels, **more)


def test_an_image_notes_what_is_scaled() -> None:
    for dtype in (np.int16, np.float32, bool):
        (note,) = Image(np.ones((4, 4), dtype)).notes
        assert note.startswith(f"pixels are {np.dtype(dtype)}, not uint8: scaled by") and "window" in note
    assert Image(GREY).notes == ()


def test_an_alpha_channel_is_dropped(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([COLOUR[..., ::-1], GREY]))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, COLOUR)


def test_a_volume_keeps_dtype_and_spacing(tmp_path: Path) -> None:
    np.savez(tmp_path / "3DBox_CT_1.npz", imgs=VOLUME, spacing=[3, 0.5, 0.25])
    image = read_image(tmp_path / "3DBox_CT_1.npz")
    assert (image.is_volume, image.spacing_mm, image.pixels.dtype) == (True, (3.0, 0.5, 0.25), np.int16)
    assert image.grid == VOLUME.shape


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "not an NPZ"), (b"\x89PNG\r\n", "not an image that can be read"), (b"DICM", "not an image")],
)
def test_what_is_no_image_is_one_line(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for path in (tmp_path / "a.png", tmp_path / "absent.png", tmp_path):
        with pytest.raises(CaseError) as refused:
            read_image(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert word in str(refused.value) or path.name != "a.png"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npz"])
def test_masks_come_back_exactly_and_leave_nothing_beside(tmp_path: Path, suffix: str) -> None:
    write_mask(tmp_path / f"a{suffix}", LABELS, like=Image(COLOUR))
    path = tmp_path / f"a{suffix}"
    back = read_segs(path) if suffix == ".npz" else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert back is not None
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, LABELS)
    assert os.listdir(tmp_path) == [f"a{suffix}"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mask(tmp_path / "a.npz", np.ones((2, 2), bool))

    def full(file: io.BufferedWriter, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="space"):
        write_mask(tmp_path / "a.npz", np.zeros((2, 2), np.uint16))
    assert os.listdir(tmp_path) == ["a.npz"]
    assert read_segs(tmp_path / "a.npz").all()


@pytest.mark.parametrize(
    ("name", "mask", "word"),
    [
        ("a.npz", np.full((20, 30), 65536), "0 to 65535"),
        ("a.npz", np.zeros((20, 30)), "required: integers"),
        ("a.png", np.zeros((5, 20, 30), np.uint8), "required: integers"),
        ("a.jpg", np.zeros((20, 30), np.uint8), "written as .npz, .png"),
        ("a.npz", np.zeros((20, 29), np.uint8), "the image's grid"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, name: str, mask: np.ndarray, word: str) -> None:
    with pytest.raises(CaseError, match=word):
        write_mask(tmp_path / name, mask, like=Image(GREY))
    assert not os.listdir(tmp_path)
