"""Boxes that reach one past the last pixel go to the grid unclipped, as the original's do, at every way in."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graysam.exporting.pipeline import compare_cases
from graysam.imaging import drawing
from graysam.imaging.channels import load_scheme
from graysam.inference.backend import OpenVinoBackend
from graysam.inference.case_files import read_ahead, segment_case_files
from graysam.inference.predictor import Predictor
from graysam.inference.segmentation import Segmentation
from graysam.io.cases import read_input_case, read_segs
from graysam.io.image import read_image
from graysam.predict import main
from graysam.reporting.evaluation import Evaluation
from tests.inference.test_segmentation import GOLDENS, StubBackend
from tests.support.commands import write_case
from tests.support.doors import run_container
from tests.support.exported_models import write_stub_exported

REPLICATE = load_scheme("replicate")
STUBS = ("2DBox_stub_large", "2DBox_stub_small")


@pytest.mark.parametrize("name", STUBS)
@pytest.mark.parametrize("door", ["array", "image", "predict", "export", "evaluate"])
def test_stub_boxes_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, door: str) -> None:
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as stored:
        case = dict(stored)
    imgs, boxes, expected = case["in_imgs"], case["in_boxes"], case["stub_segs_litemedsam"]
    assert (boxes[:, 2:] == imgs.shape[1::-1]).any(), "one of them reaches the edge"
    path = write_case(tmp_path / "imgs", name, imgs=imgs, boxes=boxes)
    stub = StubBackend()

    def predict(image: Any, given: Any, **_: Any) -> np.ndarray:
        return Segmentation(image, given, stub, REPLICATE).labels()

    if door == "evaluate":
        drawn: list[Any] = []
        monkeypatch.setattr(drawing, "draw_overlay", lambda image, segs, given, *_, **__: drawn.append(given))
        monkeypatch.setattr(drawing, "write_picture", lambda *_: None)
        for folder, key in (("segs", "segs"), ("gts", "gts")):
            write_case(tmp_path / folder, name, **{key: expected})
        folders = {folder: tmp_path / folder for folder in ("segs", "gts", "overlay")}
        assert Evaluation(**folders, images=tmp_path / "imgs").score(name).error == ""
        np.testing.assert_array_equal(drawn[0], boxes)
        return
    if door == "export":
        write_case(tmp_path / "gts", name, gts=expected)
        stubs = (stub, StubBackend())
        (row,) = compare_cases(*stubs, cases=tmp_path / "imgs", gts=tmp_path / "gts", scheme=REPLICATE, size=256)
        assert row[1][1] >= 0.999  # DSC against the golden's masks
    elif door == "predict":
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            cases = read_ahead([path], read_input_case, reader)
            predictor: Any = SimpleNamespace(predict=predict)
            assert segment_case_files(cases, 1, writer, predictor, output=tmp_path) == []
        assert (read_segs(tmp_path / f"{name}.npz") != expected).mean() <= 0.0005
    else:
        segs = predict(read_image(path) if door == "image" else imgs, boxes.tolist())
        assert (segs != expected).mean() <= 0.0005
    np.testing.assert_array_equal(np.concatenate(stub.prompts), case["stub_boxes_litemedsam"])


@pytest.mark.usefixtures("user_cache", "threads")
def test_stub_boxes_are_exact_with_an_exported_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden's network as a real model: by the class, the command, and the container's script."""
    model = write_stub_exported(tmp_path / "stub").path
    given: list[np.ndarray] = []
    decode = OpenVinoBackend.decode

    def decode_and_keep(self: OpenVinoBackend, embedding: Any, boxes: Any, valid_size: Any = None) -> Any:
        given.append(boxes)
        return decode(self, embedding, boxes, valid_size)

    monkeypatch.setattr(OpenVinoBackend, "decode", decode_and_keep)
    expected, prompts = {}, []
    for name in STUBS:
        with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as case:
            write_case(tmp_path / "inputs", name, imgs=case["in_imgs"], boxes=case["in_boxes"])
            expected[name] = case["stub_segs_litemedsam"]
            prompts.append(case["stub_boxes_litemedsam"])
            labels = Predictor(model, zoom="off").predict(case["in_imgs"], case["in_boxes"])
        np.testing.assert_array_equal(np.concatenate(given), prompts[-1])
        assert (labels != expected[name]).mean() <= 0.0005
        given.clear()
    assert (
        main(["-i", str(tmp_path / "inputs"), "-o", str(tmp_path / "masks"), "--model", str(model), "--zoom", "off"])
        == 0
    )
    np.testing.assert_array_equal(np.concatenate(given), np.concatenate(prompts))
    folders = [tmp_path / "masks"]
    if sys.platform == "linux":
        assert "clipped" not in run_container(tmp_path, model)
        folders.append(tmp_path / "outputs")
    for folder in folders:
        for name in STUBS:
            assert (read_segs(folder / f"{name}.npz") != expected[name]).mean() <= 0.0005
