"""`python -m graysam.predict`: a folder of cases in, a folder of masks out."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import graysam.predict
from graysam.imaging.channels import Paper, Scheme
from graysam.imaging.presets import load_scheme
from graysam.predict import main, open_torch, parse
from graysam.runtime.volume import segment
from tests.commands import BOXES_2D, image_2d, save_tiny_model, write_case
from tests.fill import official_state


class FilledBoxes:
    """A backend that segments exactly the box given, so that a command's masks are known beforehand."""

    def encode(self, images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 256, 64, 64), np.float32)

    def decode(self, embedding: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = np.full((len(boxes), 256, 256), -8, np.float32)
        for plane, (x_min, y_min, x_max, y_max) in zip(logits, boxes.astype(int), strict=True):
            plane[y_min : y_max + 1, x_min : x_max + 1] = 8
        return logits, np.ones(len(boxes), np.float32)


@pytest.fixture
def filling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let predict run `FilledBoxes` instead of a network."""
    monkeypatch.setattr(graysam.predict, "open_torch", lambda _: (FilledBoxes(), load_scheme("replicate"), 256))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny checkpoint of graysam, trained on nothing, that carries the scheme `paper`."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "best.ckpt", "paper")


@pytest.fixture
def threads() -> Iterator[None]:
    """Give the process its numbers of threads back."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def predict(tmp_path: Path, *more: str, model: str | Path = "lite_medsam") -> int:
    """Run the command from tmp_path/in to tmp_path/out."""
    return main(["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", str(model), *more])


def segs(tmp_path: Path, name: str) -> np.ndarray:
    with np.load(tmp_path / "out" / f"{name}.npz", allow_pickle=False) as file:
        assert file.files == ["segs"]
        assert file["segs"].dtype == np.uint16
        return file["segs"]


def names(folder: Path) -> list[str]:
    """Return all that lies in a folder, hidden files too; nothing where there is no folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# ------------------------------------------------------------------------------------------------ real weights


def test_lite_medsam_segments_an_image_and_a_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = image_2d()
    write_case(tmp_path / "in", "2DBox_US_1", imgs=np.dstack([image] * 3), boxes=BOXES_2D)
    box = [20, 30, 0, 80, 90, 1]
    write_case(tmp_path / "in", "3DBox_CT_1", imgs=np.stack([image] * 2), boxes=np.array([box]), spacing=np.ones(3))
    assert predict(tmp_path, "--overlay", str(tmp_path / "pictures")) == 0
    captured = capsys.readouterr()
    assert "verified as LiteMedSAM" in captured.out
    assert "2 of 2 cases in " in captured.out
    assert names(tmp_path / "out") == ["2DBox_US_1.npz", "3DBox_CT_1.npz"]
    assert names(tmp_path / "pictures") == ["2DBox_US_1.png", "3DBox_CT_1.png"]
    assert cv2.imread(str(tmp_path / "pictures" / "2DBox_US_1.png")).shape[0] >= 256
    flat, deep = segs(tmp_path, "2DBox_US_1"), segs(tmp_path, "3DBox_CT_1")
    assert flat.shape == image.shape
    assert deep.shape == (2, *image.shape)
    rows, columns = np.ogrid[:128, :160]
    first = (rows - 60) ** 2 + (columns - 50) ** 2 <= 30**2
    second = (rows - 70) ** 2 + (columns - 120) ** 2 <= 20**2
    for found, truth in ((flat == 1, first), (flat == 2, second), (deep[0] == 1, first), (deep[1] == 1, first)):
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_an_official_efficientvit_file_needs_channels(
    goldens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "l0.pt"
    torch.save({"model": official_state(goldens, "efficientvit_sam_l0")}, path)
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=np.zeros((0, 4)))
    assert predict(tmp_path, model=path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path} does not say which channels" in error
    assert "--channels paper|perona_malik|released|replicate" in error
    assert names(tmp_path / "out") == []
    assert predict(tmp_path, "--channels", "released", model=path) == 0
    assert "unverified" in capsys.readouterr().out
    assert not segs(tmp_path, "2DBox_US_1").any()


# -------------------------------------------------------------------------------------------- graysam's own files


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_our_files_carry_model_and_channels(tmp_path: Path, suffix: str) -> None:
    model = save_tiny_model(tmp_path / f"m{suffix}", "paper")
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    assert predict(tmp_path, model=model) == 0
    backend, scheme, size = open_torch(parse(["-i", "x", "-o", "y", "--model", str(model)]))
    assert isinstance(scheme, Paper)
    wanted = segment(image_2d(), BOXES_2D, backend, scheme, size=size)
    assert np.array_equal(segs(tmp_path, "2DBox_US_1"), wanted)


def test_channels_on_the_command_line_win(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Scheme] = []

    def spy(image: Any, boxes: Any, backend: Any, scheme: Scheme, **options: Any) -> np.ndarray:
        used.append(scheme)
        return segment(image, boxes, backend, scheme, **options)

    monkeypatch.setattr(graysam.predict, "segment", spy)
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    assert predict(tmp_path, model=tiny) == 0
    assert predict(tmp_path, "--channels", "replicate", model=tiny) == 0
    assert used == [load_scheme("paper"), load_scheme("replicate")]


@pytest.mark.parametrize(
    "options",
    [
        ("--propagation", "own"),
        ("--propagation", "litemedsam"),
        ("--precision", "bf16"),
        ("--z-max", "exclusive"),
    ],
)
def test_options_run_on_a_volume(tmp_path: Path, tiny: Path, options: tuple[str, str]) -> None:
    boxes = np.array([[20, 30, 0, 80, 90, 2], [100, 50, 1, 140, 90, 3]])
    write_case(tmp_path / "in", "3DBox_CT_1", imgs=np.stack([image_2d()] * 4), boxes=boxes)
    assert predict(tmp_path, *options, model=tiny) == 0
    found = segs(tmp_path, "3DBox_CT_1")
    assert found.shape == (4, 128, 160)
    assert set(np.unique(found)) <= {0, 1, 2}


def test_threads_bound_network_and_images(tmp_path: Path, tiny: Path, threads: None) -> None:
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    assert predict(tmp_path, "--threads", "1", model=tiny) == 0
    assert torch.get_num_threads() == cv2.getNumThreads() == 1


@pytest.mark.parametrize(
    "description",
    [
        {},
        [],
        {"format": 9},
        {"format": 1},
        {"format": 1, "model": 3},
        {"format": 1, "model": {}, "size": 256},
    ],
)
def test_a_damaged_description_is_one_line(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str], description: Any
) -> None:
    content = torch.load(tiny, weights_only=True)
    torch.save({**content, "graysam": description}, tmp_path / "damaged.ckpt")
    write_case(tmp_path / "in", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    assert predict(tmp_path, model=tmp_path / "damaged.ckpt") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(r"damaged\.ckpt(: the description graysam stored in it is damaged| is of format)", error)


# ------------------------------------------------------------------------------------------- what is written


def test_masks_are_where_the_boxes_are(filling: None, tmp_path: Path) -> None:
    """Label k is box k, both ends of a box belong to it, and later boxes lie on top."""
    boxes = np.array([[10, 20, 60, 70], [40, 50, 100, 90]])
    write_case(tmp_path / "in", "scan", imgs=np.zeros((256, 200), np.uint8), boxes=boxes)
    assert predict(tmp_path) == 0
    wanted = np.zeros((256, 200), np.uint16)
    wanted[20:71, 10:61] = 1
    wanted[50:91, 40:101] = 2
    assert np.array_equal(segs(tmp_path, "scan"), wanted)


def test_no_boxes_give_zeros(filling: None, tmp_path: Path) -> None:
    write_case(tmp_path / "in", "2DBox_US_1", imgs=np.ones((30, 40, 3), np.uint8), boxes=np.zeros((0, 4), int))
    write_case(tmp_path / "in", "3DBox_CT_1", imgs=np.ones((5, 30, 40), np.uint8), boxes=np.zeros((0, 6), int))
    assert predict(tmp_path, "--overlay", str(tmp_path / "pictures")) == 0
    assert segs(tmp_path, "2DBox_US_1").shape == (30, 40)
    assert segs(tmp_path, "3DBox_CT_1").shape == (5, 30, 40)
    assert not segs(tmp_path, "2DBox_US_1").any()
    assert not segs(tmp_path, "3DBox_CT_1").any()
    assert names(tmp_path / "pictures") == ["2DBox_US_1.png", "3DBox_CT_1.png"]


def test_a_box_partly_outside_is_clipped_and_said(
    filling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(tmp_path / "in", "a", imgs=np.ones((256, 256), np.uint8), boxes=np.array([[-9, 240, 20, 300]]))
    assert predict(tmp_path) == 0
    wanted = np.zeros((256, 256), np.uint16)
    wanted[240:, :21] = 1
    assert np.array_equal(segs(tmp_path, "a"), wanted)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == ["note: a.npz: box 1 clipped to the image: [-9, 240, 20, 300] -> [0, 240, 20, 255]"]


@pytest.mark.parametrize(("z_max", "slices"), [("inclusive", [1, 2, 3]), ("exclusive", [1, 2])])
def test_z_max(filling: None, tmp_path: Path, z_max: str, slices: list[int]) -> None:
    boxes = np.array([[10, 10, 1, 60, 60, 3]])
    write_case(tmp_path / "in", "3DBox_CT_1", imgs=np.ones((4, 128, 128), np.uint8), boxes=boxes)
    assert predict(tmp_path, "--z-max", z_max) == 0
    assert np.flatnonzero(segs(tmp_path, "3DBox_CT_1").any(axis=(1, 2))).tolist() == slices


# ------------------------------------------------------------------------------------------------- what fails


def test_a_bad_case_does_not_stop_the_others(filling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named at the end, and leaves no file, not even a temporary one."""
    for name in ("a", "c"):
        write_case(tmp_path / "in", name, imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, 5, 5]]))
    write_case(tmp_path / "in", "b", imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, np.nan, 5]]))
    assert predict(tmp_path, "--overlay", str(tmp_path / "pictures")) == 1
    assert names(tmp_path / "out") == ["a.npz", "c.npz"]
    assert names(tmp_path / "pictures") == ["a.png", "c.png"]
    captured = capsys.readouterr()
    assert "2 of 3 cases in " in captured.out
    assert captured.err.splitlines()[-1].startswith("error: b.npz: box 1 is [1.0, 1.0, nan, 5.0]; required: finite")
    assert captured.err.count("b.npz") == 1


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
    write, calls = graysam.predict.write_segs, []

    def fail_once(path: Path, masks: np.ndarray) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise error
        write(path, masks)

    monkeypatch.setattr(graysam.predict, "write_segs", fail_once)
    assert predict(tmp_path) == 1
    assert names(tmp_path / "out") == ["b.npz"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: a.npz: ")
    assert "memory" in lines[0] or "space" in lines[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("-i", "absent"), "absent is no folder"),
        (("-i", "empty"), "empty holds no .npz file"),
        (("-o", "in"), "-o in is the input folder, whose cases would be overwritten"),
        (("-o", "in/a.npz"), "-o in/a.npz is a file"),
        (("--overlay", "in/a.npz"), "--overlay in/a.npz is a file"),
        (("--runtime", "openvino"), "--runtime openvino is not part of this version"),
        (("--precision", "int8"), "--precision int8 needs --runtime openvino"),
        (("--model", "graysam_l0"), "graysam has no weights of its own yet"),
        (("--model", "absent.pth"), "weight file absent.pth does not exist"),
        (("--device", "tpu"), "--device tpu cannot be used"),
        (("--device", "cuda:99"), "--device cuda:99 cannot be used"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_unusable_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    case = write_case(Path("in"), "a", imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, 5, 5]]))
    before = case.read_bytes()
    Path("empty").mkdir()
    assert main(["-i", "in", "-o", "out", "--model", str(tiny), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {reason}")
    assert names(tmp_path) == ["empty", "in"]
    assert case.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--channels", "rgb"),
        ("--precision", "fp16"),
        ("--runtime", "onnx"),
        ("--propagation", "theirs"),
        ("--z-max", "both"),
        ("--threads", "0"),
        ("--threads", "two"),
    ],
)
def test_unknown_choices_are_refused(capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["-i", "in", "-o", "out", "--model", "lite_medsam", option, value])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{option} is {value}" in line or f"{option}: invalid" in line


def test_bad_arguments_are_reported_before_torch_is_loaded(tmp_path: Path) -> None:
    write_case(tmp_path / "in", "a", imgs=np.ones((20, 20), np.uint8), boxes=np.array([[1, 1, 5, 5]]))
    code = (
        "import sys; from graysam.predict import main\n"
        "for more in (['-i', 'absent'], ['-o', 'in'], ['--runtime', 'openvino'], ['--precision', 'int8'],\n"
        "             ['--model', 'graysam_l0']):\n"
        "    assert main(['-i', 'in', '-o', 'out', '--model', 'lite_medsam', *more]) == 2\n"
        "print([name for name in ('torch', 'hydra') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
    assert len(done.stderr.splitlines()) == 5
