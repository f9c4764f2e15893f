"""The Python API: a model in memory, images and boxes in, masks out."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.inference.predictor import Predictor, choose_backend
from graysam.io.image import Image
from tests.support.commands import BOXES_2D, image_2d
from tests.support.exported_models import write_tiny_exported

pytestmark = pytest.mark.usefixtures("user_cache", "threads")

# A rectangle on the embedding's cells, 8 x 8 pixels each, and two boxes that cut it.
IMAGE = np.zeros((128, 128), np.uint8)
IMAGE[40:80, 40:120] = 200
BOXES = np.array([[20, 20, 99, 119], [100, 56, 127, 127]])
WANTED = np.zeros(IMAGE.shape, np.uint16)
WANTED[40:80, 40:100] = 1
WANTED[56:80, 100:120] = 2


def test_masks_are_what_the_boxes_hold(tiny_exported: Path) -> None:
    predictor = Predictor(tiny_exported)
    found = predictor.predict(IMAGE, BOXES)
    assert found.dtype == np.uint16
    assert np.array_equal(found, WANTED)
    assert np.array_equal(predictor.predict(np.dstack([IMAGE] * 3), BOXES.tolist()), WANTED)
    assert not predictor.predict(IMAGE, []).any()
    smaller = np.zeros_like(IMAGE)
    smaller[48:72, 48:112] = 200
    volume = np.stack([smaller, IMAGE, smaller])
    boxes = np.array([[20, 20, 0, 127, 119, 2]])
    deep = predictor.predict(volume, boxes)
    assert deep.shape == volume.shape
    assert np.array_equal(deep, (volume > 100).astype(np.uint16))
    shorter = predictor.predict(volume, boxes, z_max_inclusive=False)
    assert not shorter[2].any()
    assert shorter[:2].any(axis=(1, 2)).all()


def test_masks_are_one_a_prompt_and_may_overlap(tiny_exported: Path) -> None:
    predictor = Predictor(tiny_exported)
    boxes = [[20, 20, 99, 119], [60, 56, 127, 127]]
    first, second = predictor.predict_masks(Image(IMAGE), boxes)
    assert (first.mask & second.mask).any()
    assert first.logits.shape == (64, 64)
    assert first.iou == pytest.approx(float(first.logits.max()))  # as the tiny model computes it
    painted = np.where(second.mask, 2, first.mask)
    assert np.array_equal(painted, predictor.predict(Image(IMAGE), boxes))
    (deep,) = predictor.predict_masks(np.stack([IMAGE] * 4), [[20, 20, 1, 127, 119, 2]])
    assert (deep.slices, deep.logits.shape, deep.iou.shape) == (range(1, 3), (2, 64, 64), (2,))
    assert np.array_equal(deep.mask, predictor.predict(np.stack([IMAGE] * 4), [[20, 20, 1, 127, 119, 2]]) == 1)


def test_what_was_segmented_before_makes_no_difference(tiny_exported: Path) -> None:
    """Neither in a predictor nor between two of them, whose backends keep what an image's boxes share."""
    one, other = Predictor(tiny_exported), Predictor(tiny_exported, cache=False)
    flipped = np.ascontiguousarray(IMAGE[:, ::-1])
    turned = one.predict(flipped, BOXES)
    assert not np.array_equal(turned, WANTED)
    for predictor in (one, other, one):
        assert np.array_equal(predictor.predict(IMAGE, BOXES), WANTED)
        assert np.array_equal(predictor.predict(flipped, BOXES), turned)


def test_both_ways_to_decode_agree(tiny_exported: Path, tmp_path: Path) -> None:
    """Also where the image does not cover the grid, whose rest the decoder in steps leaves out."""
    plain = Predictor(write_tiny_exported(tmp_path / "plain", plain=True).path)
    for image in (IMAGE, IMAGE[:88]):
        found = plain.predict(image, BOXES.clip(0, 87))
        assert found.any()
        assert np.array_equal(found, Predictor(tiny_exported).predict(image, BOXES.clip(0, 87)))


def test_threads_take_turns(tiny_exported: Path) -> None:
    predictor = Predictor(tiny_exported, threads=1)
    images = [np.roll(IMAGE, 8 * shift, axis=1) for shift in range(4)]
    alone = [predictor.predict(image, BOXES) for image in images]
    together: dict[int, list[np.ndarray]] = {}

    def work(index: int) -> None:
        together[index] = [predictor.predict(images[index], BOXES) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found, alone[index]) for index in range(4) for found in together[index])


def test_threads_bound_network_and_images(tiny_exported: Path) -> None:
    for count in (1, 2):
        predictor = Predictor(tiny_exported, threads=count)
        assert cv2.getNumThreads() == count
        encoder = predictor.backend._requests["encoder"].get_compiled_model()
        assert encoder.get_property("INFERENCE_NUM_THREADS") == count
    Predictor(tiny_exported)
    assert cv2.getNumThreads() == 2


def test_the_cache_is_the_users_and_may_be_left_alone(
    tiny_exported: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Predictor(tiny_exported, cache=False)
    assert not user_cache.exists()
    for _ in range(2):
        Predictor(tiny_exported)
        assert len(list(user_cache.glob("compiled/*.blob"))) == 3
    (user_cache / "compiled").rename(user_cache / "moved")
    (user_cache / "compiled").write_text("in the way")
    assert np.array_equal(Predictor(tiny_exported).predict(IMAGE, BOXES), WANTED)
    monkeypatch.delenv("GRAYSAM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no home")))
    assert np.array_equal(Predictor(tiny_exported).predict(IMAGE, BOXES), WANTED)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model": "absent.pth", "backend": "openvino"}, r"absent\.pth does not exist"),
        ({"backend": "torch"}, "is a directory, and exported models need the backend openvino"),
        ({"backend": "onnxruntime"}, "has the format openvino; required: onnx"),
        ({"device": "cuda", "backend": "openvino"}, "device cuda needs the backend torch"),
        ({"precision": "int8"}, "is exported as fp32, but int8 is asked for"),
        ({"threads": 0}, "threads is 0; required: at least 1"),
        ({"channels": "rgb"}, "unknown channel scheme 'rgb'; choose one of"),
    ],
)
def test_what_cannot_be_opened_is_one_line(tiny_exported: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        Predictor(**{"model": tiny_exported, **options})
    assert "\n" not in str(refused.value)


def test_a_program_of_ones_own_loads_nothing_heavy(tiny_exported: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import numpy as np
import graysam
masks = graysam.Predictor({str(tiny_exported)!r}).predict(np.eye(64, dtype=np.uint8), [[0, 0, 63, 63]])
print(masks.shape, sorted({{name.partition(".")[0] for name in sys.modules}} & {{
    "torch", "lightning", "hydra", "omegaconf", "pandas", "scipy", "matplotlib", "tqdm", "timm", "nncf"}}))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert done.stdout == "(64, 64) []\n"


@pytest.mark.parametrize("name", ["graysam_l0", pytest.param("lite_medsam", marks=pytest.mark.slow)])
def test_what_is_shipped_segments_and_starts_from_its_cache_the_same(name: str, user_cache: Path) -> None:
    rows, columns = np.ogrid[:128, :160]
    discs = [(rows - 60) ** 2 + (columns - 50) ** 2 <= 30**2, (rows - 70) ** 2 + (columns - 120) ** 2 <= 20**2]
    compiled = Predictor(name, threads=2).predict(image_2d(), BOXES_2D)
    sizes = [entry.stat().st_size for entry in user_cache.glob("compiled/*.blob")]
    assert len(sizes) == 3 and sum(sizes) < 8e6  # without weights, which stay beside the graphs
    again = Predictor(threads=2) if name == "graysam_l0" else Predictor(name, precision="int8", threads=2)
    assert (again.name, again.precision, again.size) == (name, "int8", 256)
    imported = again.predict(image_2d(), BOXES_2D)
    assert np.array_equal(compiled, imported)
    for label, disc in enumerate(discs, start=1):
        found = compiled == label
        assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.9


@pytest.mark.parametrize(
    ("model", "options", "wanted"),
    [
        ("FOLDER", {}, "openvino"),
        ("shipped_one", {}, "openvino"),
        ("shipped_one", {"precision": "int8"}, "openvino"),
        ("shipped_one", {"precision": "bf16"}, "torch"),
        ("shipped_one", {"device": "cuda"}, "torch"),
        ("weights.pth", {}, "torch"),
        ("weights.pth", {"precision": "int8"}, "openvino"),
        ("weights.pth", {"backend": "openvino"}, "openvino"),
        ("shipped_one", {"backend": "torch"}, "torch"),
    ],
)
def test_the_backend_that_is_chosen(
    tmp_path: Path,
    tiny_exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    options: dict[str, Any],
    wanted: str,
) -> None:
    monkeypatch.setattr("graysam.inference.predictor.shipped_models", lambda: {"shipped_one": ["int8"]})
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").touch()
    assert choose_backend(model.replace("FOLDER", str(tiny_exported)), **options) == wanted
