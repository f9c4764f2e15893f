"""`python -m graysam.predict`: a folder of cases in, a folder of masks out; all of it without torch."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import graysam.predict
from graysam.imaging.channels import load_scheme
from graysam.inference import case_files
from graysam.inference.segmentation import Segmentation
from graysam.predict import main
from tests.support.commands import names, segs, write_case
from tests.support.exported_models import write_tiny_exported

pytestmark = pytest.mark.usefixtures("user_cache", "threads")


class FilledBoxes:
    """A backend that segments exactly the box given, so that a command's masks are known beforehand."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 256, 64, 64), np.float32)

    def decode(
        self, embedding: np.ndarray, boxes: np.ndarray, valid_size: object = None
    ) -> tuple[np.ndarray, np.ndarray]:
        logits = np.full((len(boxes), 256, 256), -8, np.float32)
        for plane, (x_min, y_min, x_max, y_max) in zip(logits, boxes.astype(int), strict=True):
            plane[y_min : y_max + 1, x_min : x_max + 1] = 8
        return logits, np.ones(len(boxes), np.float32)


@pytest.fixture
def filling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let predict run `FilledBoxes` instead of a network."""

    def predict(image: Any, boxes: Any, **options: Any) -> np.ndarray:
        return Segmentation(image, boxes, FilledBoxes(), load_scheme("replicate"), **options).labels()

    monkeypatch.setattr(graysam.predict, "open_predictor", lambda *_: SimpleNamespace(predict=predict))


def predict(tmp_path: Path, *more: str, model: str | Path = "lite_medsam") -> int:
    """Run the command from tmp_path/in to tmp_path/out."""
    return main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(model), *more])


def write_bright_cases(folder: Path) -> None:
    image = np.zeros((128, 128), np.uint8)
    image[40:80, 40:120] = 200
    write_case(folder, "2DBox_US_1", imgs=np.dstack([image] * 3), boxes=np.array([[20, 20, 99, 119]]))
    box = [20, 20, 0, 127, 119, 1]
    write_case(folder, "3DBox_CT_1", imgs=np.stack([image] * 3), boxes=np.array([box]), spacing=np.ones(3))


def test_an_exported_model_segments_images_and_volumes(
    tmp_path: Path, tiny_exported: Path, user_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bright_cases(tmp_path / "in")
    wanted = np.zeros((4, 128, 128), np.uint16)
    wanted[0, 40:80, 40:100] = wanted[1:3, 40:80, 40:120] = 1
    for options in ((), ("--precision", "fp32", "--backend", "openvino", "--threads", "1", "--device", "cpu")):
        assert predict(tmp_path, "--overlay", str(tmp_path / "pictures"), *options, model=tiny_exported) == 0
        captured = capsys.readouterr()
        assert f"tiny fp32 from {tiny_exported}, zoom auto, walk slices\n2 of 2 cases in " in captured.out
        assert captured.err == "predicting: 2 of 2\n"
        assert names(tmp_path / "out") == ["2DBox_US_1.npz", "3DBox_CT_1.npz"]
        assert names(tmp_path / "pictures") == ["2DBox_US_1.png", "3DBox_CT_1.png"]
        assert np.array_equal(segs(tmp_path, "2DBox_US_1"), wanted[0])
        assert np.array_equal(segs(tmp_path, "3DBox_CT_1"), wanted[1:])
    assert len(names(user_cache / "compiled")) == 6  # three graphs, for two numbers of threads
    user_cache.rename(tmp_path / "moved")
    assert predict(tmp_path, "--no-cache", model=tiny_exported) == 0
    assert not user_cache.exists()


def test_channels_on_the_command_line_win(tmp_path: Path) -> None:
    """The scheme `released` puts the equalized image, in which half of all pixels are bright, into a channel."""
    tiny_exported = write_tiny_exported(tmp_path / "tiny", level=0.25).path
    image = np.tile(np.arange(128, dtype=np.uint8) // 8, (128, 1))
    image[0, 0] = 255
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image, boxes=np.array([[0, 0, 127, 127]]))
    bright = []
    for options in ((), ("--channels", "released")):
        assert predict(tmp_path, *options, model=tiny_exported) == 0
        bright.append(segs(tmp_path, "2DBox_US_1").mean())
    assert bright[0] < 0.01
    assert bright[1] > 0.2


@pytest.mark.parametrize(
    ("imgs", "boxes", "wanted"),
    [
        (np.zeros((256, 200), np.uint8), [[10, 20, 60, 70], [40, 50, 100, 90]], [(20, 71, 10, 61), (50, 91, 40, 101)]),
        (np.ones((256, 256), np.uint8), [[-9, 240, 20, 300]], [(240, 256, 0, 21)]),
        (np.ones((30, 40, 3), np.uint8), np.zeros((0, 4), int), []),
    ],
    ids=["later boxes on top", "clipped", "no boxes"],
)
def test_masks_are_where_the_boxes_are(
    filling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], imgs: np.ndarray, boxes: Any, wanted: list[Any]
) -> None:
    """Label k is box k, and both ends of a box belong to it; what was clipped is noted."""
    write_case(tmp_path / "in", "a", imgs=imgs, boxes=np.array(boxes))
    assert predict(tmp_path, "--overlay", str(tmp_path / "pictures")) == 0
    labels = np.zeros(imgs.shape[:2], np.uint16)
    for label, (top, bottom, left, right) in enumerate(wanted, start=1):
        labels[top:bottom, left:right] = label
    assert np.array_equal(segs(tmp_path, "a"), labels)
    assert names(tmp_path / "pictures") == ["a.png"]
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    clipped = ["note: a.npz: box 1 clipped to the image: [-9, 240, 20, 300] -> [0, 240, 20, 255]"]
    assert notes == (clipped if len(wanted) == 1 else [])


@pytest.mark.parametrize(("z_max", "slices"), [("inclusive", [1, 2, 3]), ("exclusive", [1, 2])])
def test_z_max(filling: None, tmp_path: Path, z_max: str, slices: list[int]) -> None:
    boxes = np.array([[10, 10, 1, 60, 60, 3]])
    write_case(tmp_path / "in", "3DBox_CT_1", imgs=np.ones((4, 128, 128), np.uint8), boxes=boxes)
    assert predict(tmp_path, "--z-max", z_max) == 0
    assert np.flatnonzero(segs(tmp_path, "3DBox_CT_1").any(axis=(1, 2))).tolist() == slices


def test_a_bad_case_does_not_stop_the_others(filling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named at the end, and leaves no file, not even a temporary one."""
    for name, x_max in (("a", 5), ("b", np.nan), ("c", 5)):
        write_case(tmp_path / "in", name, imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, x_max, 5]]))
    (tmp_path / "in" / "d.npz").write_bytes(b"")
    assert predict(tmp_path, "--overlay", str(tmp_path / "pictures")) == 1
    assert names(tmp_path / "out") == ["a.npz", "c.npz"]
    assert names(tmp_path / "pictures") == ["a.png", "c.png"]
    captured = capsys.readouterr()
    assert "2 of 4 cases in " in captured.out
    _, bad_box, empty = captured.err.splitlines()
    assert bad_box.startswith("error: b.npz: box 1 is [1.0, 1.0, nan, 5.0]; required: finite")
    assert empty.startswith("error: d.npz: truncated, damaged or not an NPZ")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp]\nDefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        cv2.error("Insufficient memory"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_fails_on_the_way_is_one_line_and_the_rest_goes_on(
    filling: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    for name in ("a", "b"):
        write_case(tmp_path / "in", name, imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, 5, 5]]))
    write, calls = case_files.write_mask, []

    def fail_once(path: Path, masks: np.ndarray) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise error
        write(path, masks)

    monkeypatch.setattr(case_files, "write_mask", fail_once)
    assert predict(tmp_path) == 1
    assert names(tmp_path / "out") == ["b.npz"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: a.npz: ")
    assert "memory" in lines[0] or "space" in lines[0]


def test_every_note_and_every_file_that_is_not_read_is_printed(
    filling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.ones((20, 20), np.uint8)
    write_case(tmp_path / "in", "a", imgs=image.astype(np.int16), boxes=np.array([[-3, 1, 9, 9], [0, 1, 9, 9]]))
    volume = np.stack([image] * 3)
    write_case(
        tmp_path / "in", "3DBox_CT_b", imgs=volume, boxes=np.array([[1, 1, 0, 9, 9, 2]]), spacing=np.array([-5, 1, 1])
    )
    (tmp_path / "in" / "3DBox_CT_b.npz").rename(tmp_path / "in" / "3DBox_CT_b.NPZ")
    (tmp_path / "in" / "._a.npz").write_bytes(b"resource fork")
    (tmp_path / "in" / "more").mkdir()
    assert predict(tmp_path) == 0
    assert names(tmp_path / "out") == ["3DBox_CT_b.npz", "a.npz"]
    not_read, spacing, missing, clipped, scaled = sorted(
        line for line in capsys.readouterr().err.splitlines() if line.startswith("not")
    )
    assert spacing.startswith("note: 3DBox_CT_b.NPZ: not used: spacing is [-5.0, 1.0, 1.0]")
    assert missing.startswith("note: a.npz: 1 of 2 boxes without a pixel in the mask: labels 1 (overwritten by later")
    assert clipped.startswith("note: a.npz: box 1 clipped to the image")
    assert scaled.startswith("note: a.npz: pixels are int16, not uint8: scaled")
    assert not_read == f"not read in {tmp_path / 'in'}: 1 folders, 1 hidden"


def test_logits_of_nan_are_a_failed_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(tmp_path / "in", "a", imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, 5, 5]]))
    (backend := FilledBoxes()).decode = lambda *_: (np.full((1, 256, 256), np.nan, np.float32), np.zeros(1, np.float32))

    def nan(image: Any, boxes: Any, **options: Any) -> np.ndarray:
        return Segmentation(image, boxes, backend, load_scheme("replicate"), **options).labels()

    monkeypatch.setattr(graysam.predict, "open_predictor", lambda *_: SimpleNamespace(predict=nan))
    assert predict(tmp_path) == 1
    assert "error: a.npz: the model answers with NaN or infinity" in capsys.readouterr().err
    assert names(tmp_path / "out") == []


def test_a_mistake_of_ours_is_not_a_bad_case(filling: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "in", "a", imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, 5, 5]]))
    monkeypatch.setattr(case_files, "write_mask", lambda path: None)
    with pytest.raises(TypeError):
        predict(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-i", "absent"), "-i absent is not a directory"),
        (("-i", "empty"), "-i empty holds no .npz file"),
        (("-o", "in"), "-o in is the input directory, whose cases would be overwritten"),
        (("-o", "in/a.npz"), "-o in/a.npz is a file"),
        (("--overlay", "in/a.npz"), "--overlay in/a.npz is a file"),
        (("--precision", "int8"), "TINY is exported as fp32, but int8 is asked for"),
        (("--model", "in"), "in is no exported model"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_unusable_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    tiny_exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    case = write_case(Path("in"), "a", imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, 5, 5]]))
    before = case.read_bytes()
    Path("empty").mkdir()
    assert main(["-i", "in", "-o", "out", "--model", str(tiny_exported), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {reason.replace('TINY', str(tiny_exported))}")
    assert names(tmp_path) == ["empty", "in"]
    assert case.read_bytes() == before


def test_bad_arguments_are_reported_before_a_runtime_is_loaded(tmp_path: Path) -> None:
    write_case(tmp_path / "in", "a", imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, 5, 5]]))
    code = (
        "import sys; from graysam.predict import main\n"
        "for more in (['-o', 'in'], ['--backend', 'torch', '--precision', 'int8']):\n"
        "    assert main(['-i', 'in', '-o', 'out', '--model', 'lite_medsam', *more]) == 2\n"
        "print([name for name in ('torch', 'hydra', 'openvino') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
    assert len(done.stderr.splitlines()) == 2
