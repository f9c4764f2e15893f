"""Bad input to every command: its exit code, one line that names file and reason, and nothing half-written.

What makes a file bad is shown function by function in test_cases.py, test_packing.py and test_weights.py; here the
commands have to say it. Exit code 1 is for a bad case among others, 2 for input that cannot be used at all.
"""

import io
import logging
import pickle
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import graysam.evaluate
import graysam.pack
import graysam.predict
import graysam.train
from graysam.data.shards import INDEX_NAME, MANIFEST_NAME
from tests.support.commands import run_module_without, save_tiny_model, write_case
from tests.support.lightning_warnings import LIGHTNING_WARNINGS, LITLOGGER
from tests.support.shards import make_shards
from tests.support.tiny import overrides

IMAGE = np.full((40, 50), 90, np.uint8)
LABELS = np.zeros((40, 50), np.uint8)
LABELS[10:20, 10:30] = 1
BOX = np.array([[10, 10, 29, 19]])
GOOD: dict[str, dict[str, np.ndarray]] = {
    "input": {"imgs": IMAGE, "boxes": BOX},
    "training": {"imgs": IMAGE, "gts": LABELS},
    "gts": {"gts": LABELS},
    "segs": {"segs": LABELS.astype(np.uint16)},
}
LAST = {"input": "boxes", "training": "gts", "gts": "gts", "segs": "segs"}  # the array that is made bad


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def pickled(trap: Path) -> np.ndarray:
    array = np.empty(1, object)
    array[0] = Trap(trap)
    return array


def bomb(path: Path, arrays: dict[str, np.ndarray], key: str) -> None:
    """Write an NPZ whose header of one array asks for 4 TiB."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4096, 1048576, 1024), }"
    header += b" " * (117 - len(header)) + b"\n"
    np.savez(path, **{name: array for name, array in arrays.items() if name != key})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64)


# Each writes a bad file of a kind (a key of GOOD) to a path, perhaps with a trap; and what the line has to say of it.
Damage = Callable[[Path, str, Path], Any]


def with_array(make: Callable[[np.ndarray, Path], Any]) -> Damage:
    """Replace the kind's last array by what `make` gives for it."""
    return lambda path, kind, trap: np.savez(path, **{**GOOD[kind], LAST[kind]: make(GOOD[kind][LAST[kind]], trap)})


def whole(kind: str) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **GOOD[kind])
    return stream.getvalue()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (lambda path, kind, trap: path.write_bytes(b""), "the file is empty"),
    "truncated": (lambda path, kind, trap: path.write_bytes(whole(kind)[:-60]), "truncated, damaged or not an NPZ"),
    "not a zip": (lambda path, kind, trap: path.write_text("DICM"), "truncated, damaged or not an NPZ"),
    "a pickle": (lambda path, kind, trap: path.write_bytes(pickle.dumps(Trap(trap))), "not an NPZ"),
    "a folder": (lambda path, kind, trap: path.mkdir(), "directory"),
    "missing key": (lambda path, kind, trap: np.savez(path, masks=LABELS), "no array '"),
    "pickled array": (with_array(lambda array, trap: pickled(trap)), "pickled Python objects, which are never loaded"),
    "dtype": (with_array(lambda array, trap: array.astype(complex)), "have dtype complex128; required"),
    "rank": (with_array(lambda array, trap: array[None, None]), "; required: rank"),
    "size bomb": (lambda path, kind, trap: bomb(path, GOOD[kind], LAST[kind]), "required"),
}
BOXES = {
    "inverted": ([[29, 10, 10, 19]], "is inverted or empty"),
    "outside": ([[60, 10, 70, 19]], "is wholly outside the image"),
    "NaN": ([[10, np.nan, 29, 19]], "required: finite numbers"),
    "columns": ([[10, 10, 29]], "shape (N,4) in 2D or (N,6) in 3D"),
    "2D boxes on a volume": ([[10, 10, 0, 29, 19, 3]], "required: (D,H,W)"),
}
INPUT_DAMAGES: dict[str, tuple[Damage, str]] = DAMAGES | {
    name: (with_array(lambda array, trap, boxes=boxes: np.array(boxes)), reason)
    for name, (boxes, reason) in BOXES.items()
}
TRAINING_DAMAGES: dict[str, tuple[Damage, str]] = DAMAGES | {
    "another grid": (with_array(lambda array, trap: array[:-1]), "required: the same grid"),
    "negative labels": (with_array(lambda array, trap: -array.astype(np.int16)), "required: 0 to 65535"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors")


def files(folder: Path) -> list[str]:
    """Return all files below a folder, hidden and temporary ones too; nothing where there is no folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder.is_dir() else []


def only_line_about(name: str, error: str) -> str:
    """Return the one line on the standard error that names a file; that none is a traceback is checked, too."""
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if name in line]
    assert len(lines) == 1, error
    return lines[0]


def hydra_command(monkeypatch: pytest.MonkeyPatch, main: Callable[[], int], *arguments: str) -> int:
    """Run a Hydra command in this process."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    return main()


# ---------------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("name", INPUT_DAMAGES)
def test_predict(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    damage, reason = INPUT_DAMAGES[name]
    write_case(tmp_path / "in", "2DBox_US_good", **GOOD["input"])
    damage(tmp_path / "in" / "2DBox_US_bad.npz", "input", tmp_path / "trap")
    folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--overlay", str(tmp_path / "pictures")]
    assert graysam.predict.main([*folders, "--model", str(tiny)]) == 1
    assert reason in only_line_about("2DBox_US_bad.npz", capsys.readouterr().err)
    assert files(tmp_path / "out") == ["2DBox_US_good.npz"]
    assert files(tmp_path / "pictures") == ["2DBox_US_good.png"]
    assert not (tmp_path / "trap").exists()


WEIGHTS: dict[str, Callable[[Path, Path, Path], Any]] = {  # a path, a trap and a tiny model -> a bad weight file
    "missing": lambda path, trap, tiny: None,
    "empty": lambda path, trap, tiny: path.touch(),
    "truncated": lambda path, trap, tiny: path.write_bytes(tiny.read_bytes()[:5000]),
    "pickle": lambda path, trap, tiny: path.write_bytes(pickle.dumps(Trap(trap))),
    "pickle inside": lambda path, trap, tiny: torch.save({"state_dict": {"image_encoder.x": Trap(trap)}}, path),
    "folder": lambda path, trap, tiny: path.mkdir(),
    "other keys": lambda path, trap, tiny: torch.save({"weight": torch.zeros(3)}, path),
    "keys left out": lambda path, trap, tiny: save_without_a_key(save_tiny_model(path.with_suffix(".ckpt")), path),
}


def save_without_a_key(given: Path, path: Path) -> None:
    content = torch.load(given, weights_only=True)
    given.unlink()
    content["state_dict"].popitem()
    torch.save(content, path)


@pytest.mark.parametrize("command", ["predict", "train weights", "train heads"])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_bad_weights(
    tmp_path: Path,
    toy_shards: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    command: str,
) -> None:
    weights = tmp_path / ("w.safetensors" if kind == "truncated" else "w.pth")
    WEIGHTS[kind](weights, tmp_path / "trap", tiny)
    if command == "predict":
        write_case(tmp_path / "in", "2DBox_US_good", **GOOD["input"])
        folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
        assert graysam.predict.main([*folders, "--model", str(weights)]) == 2
    else:
        shutil.copytree(toy_shards, tmp_path / "shards")
        assert train(monkeypatch, tmp_path, f"{command.split()[1]}={weights}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    line = only_line_about(weights.name, error)
    assert "bundle.json is missing" in line if (command, kind) == ("predict", "folder") else "weight" in line
    assert not {"out", "run", "trap"} & set(files(tmp_path))


# --------------------------------------------------------------------------------------------------- evaluate


@pytest.mark.parametrize("kind", ["segs", "gts"])
@pytest.mark.parametrize("name", DAMAGES)
def test_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str) -> None:
    damage, reason = DAMAGES[name]
    for which in ("segs", "gts"):
        for case in ("2DBox_US_good", "2DBox_US_bad"):
            write_case(tmp_path / which, case, **GOOD[which])
    bad = tmp_path / kind / "2DBox_US_bad.npz"
    bad.unlink()
    damage(bad, kind, tmp_path / "trap")
    folders = ["-s", str(tmp_path / "segs"), "-g", str(tmp_path / "gts"), "-o", str(tmp_path / "out" / "m.csv")]
    assert graysam.evaluate.main([*folders, "--workers", "1"]) == 1
    if (kind, name) == ("segs", "a folder"):
        reason = "is missing; run predict"
    line = only_line_about("2DBox_US_bad", capsys.readouterr().err)
    assert reason in line
    assert str(bad) in line
    assert files(tmp_path / "out") == ["m.csv"]
    rows = (tmp_path / "out" / "m.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["case", "2DBox_US_good"]
    assert not (tmp_path / "trap").exists()


# ------------------------------------------------------------------------------------------------------- pack


@pytest.mark.parametrize("name", TRAINING_DAMAGES)
def test_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> None:
    damage, reason = TRAINING_DAMAGES[name]
    monkeypatch.chdir(tmp_path)
    write_case(Path("raw"), "US_A_good", **GOOD["training"])
    bad = Path("raw/US_A_bad.npz")
    damage(bad, "training", tmp_path / "trap")
    if name == "a folder":  # is searched, not read
        write_case(bad, "US_A_within", imgs=IMAGE)
        bad, reason = bad / "US_A_within.npz", "no array 'gts'"
    given = ("input_dir=raw", "workers=1")
    assert hydra_command(monkeypatch, graysam.pack.main, *given, "output_dir=out") == 1
    error = capsys.readouterr().err
    assert reason in only_line_about(bad.name, error)
    assert error.splitlines()[-1] == "1 of 2 files were left out"
    assert files(Path("out")) == [INDEX_NAME, MANIFEST_NAME, "shard-000000.tar"]
    # Alone it makes the whole input unusable.
    Path("raw/US_A_good.npz").unlink()
    assert hydra_command(monkeypatch, graysam.pack.main, *given, "output_dir=other") == 2
    line = only_line_about(bad.name, capsys.readouterr().err)
    assert line.startswith("error: raw: none of 1 files gave a sample")
    assert reason in line
    assert files(tmp_path) == sorted({"out", "raw", *(f"out/{f}" for f in files(Path("out"))), *raw_files()})


def raw_files() -> set[str]:
    return {f"raw/{file}" for file in files(Path("raw"))}


def test_pack_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raw/fundus").mkdir(parents=True)
    cv2.imwrite("raw/fundus/good.png", np.full((8, 9), 7, np.uint8))
    Path("raw/fundus/bad.png").write_bytes(b"no picture")
    given = ("source=images", "workers=1")
    assert hydra_command(monkeypatch, graysam.pack.main, *given, "input_dir=raw", "output_dir=out") == 1
    said = capsys.readouterr()
    assert "unlabelled_fundus" in said.out
    assert "not an image" in only_line_about("bad.png", said.err)
    assert said.err.splitlines()[-1] == "1 of 2 files were left out"
    assert hydra_command(monkeypatch, graysam.pack.main, *given, "input_dir=nowhere", "output_dir=other") == 2
    assert "nowhere is not a directory" in only_line_about("error: ", capsys.readouterr().err)
    assert not Path("other").exists()


def test_pack_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_case(Path("raw"), "US_A_good", **GOOD["training"])
    Path("taken").write_text("mine")
    for output in ("taken", "taken/below"):
        given = ("input_dir=raw", f"output_dir={output}", "workers=1")
        assert hydra_command(monkeypatch, graysam.pack.main, *given) == 2
        assert "taken" in only_line_about("error: ", capsys.readouterr().err)
    assert files(tmp_path) == ["raw", "raw/US_A_good.npz", "taken"]
    assert Path("taken").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------ train


def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *more: str) -> int:
    given = overrides(tmp_path / "shards", tmp_path / "run", *more)
    for name in (None, "lightning", "lightning.pytorch", "lightning.fabric"):
        # Handlers that Hydra and Lightning set keep the standard error of an earlier test, which is closed by now.
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    return hydra_command(monkeypatch, graysam.train.main, *given)


def change_manifest(folder: Path, pattern: str, new: str) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(re.sub(pattern, new, path.read_text(), count=1))


SHARDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no shards in"),
    "no manifest": (lambda folder: (folder / MANIFEST_NAME).unlink(), "no shards in"),
    "truncated manifest": (lambda folder: (folder / MANIFEST_NAME).write_text("{"), "not readable as JSON"),
    "another version": (lambda folder: change_manifest(folder, r'"version": \d', '"version": 0'), "required"),
    "no index": (lambda folder: (folder / INDEX_NAME).unlink(), "not readable"),
    "another index": (lambda folder: (folder / INDEX_NAME).write_text("key\n"), "was changed after packing"),
    "no shard": (lambda folder: (folder / "shard-000001.tar").unlink(), "no such file"),
    "truncated shard": (lambda folder: (folder / "shard-000001.tar").write_bytes(b"x"), "1 bytes; required"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_train_on_bad_shards(
    tmp_path: Path,
    toy_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    damage, reason = SHARDS[name]
    shutil.copytree(toy_shards, tmp_path / "shards")
    damage(tmp_path / "shards")
    assert train(monkeypatch, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert reason in only_line_about(str(tmp_path / "shards"), error)
    assert not (tmp_path / "run").exists()


def test_train_on_shards_without_a_held_out_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_shards(tmp_path / "shards", validation=False)
    assert train(monkeypatch, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "holds no val samples; pack again" in error


def replace_pngs(folder: Path, suffix: str, content: bytes) -> None:
    """Give every image's member in every shard another suffix of three letters and other first bytes, in place.

    Sizes, offsets and checksums of the headers stay right: nothing but the member itself tells.
    """
    for shard in folder.glob("*.tar"):
        data = bytearray(shard.read_bytes())
        with tarfile.open(shard) as tar:
            infos = [info for info in tar if info.name.endswith(".png")]
        for info in infos:
            data[info.offset_data : info.offset_data + len(content)] = content
            info.name = f"{info.name.removesuffix('png')}{suffix}"
            data[info.offset : info.offset + 512] = info.tobuf(tarfile.USTAR_FORMAT)
        shard.write_bytes(data)


@pytest.mark.filterwarnings(*LIGHTNING_WARNINGS, LITLOGGER)
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("suffix", "reason"), [("pkl", "it was not opened"), ("png", "the PNG is damaged")])
def test_train_stops_at_a_bad_member(
    tmp_path: Path,
    toy_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
    reason: str,
    workers: int,
) -> None:
    shutil.copytree(toy_shards, tmp_path / "shards")
    replace_pngs(tmp_path / "shards", suffix, pickle.dumps(Trap(tmp_path / "trap")))
    assert train(monkeypatch, tmp_path, f"data.num_workers={workers}") == 2
    error = capsys.readouterr().err
    line = only_line_about("error: ", error)
    assert re.match(rf"error: {tmp_path}/shards/shard-\d+\.tar, sample (US|CT_toy)-\d: ", line)
    assert reason in line
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not (tmp_path / "trap").exists()


def test_train_into_a_file(
    tmp_path: Path, toy_shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(toy_shards, tmp_path / "shards")
    (tmp_path / "run").write_text("mine")
    assert train(monkeypatch, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / "run") in error
    assert (tmp_path / "run").read_text() == "mine"


# ------------------------------------------------------------------------------------------- the missing extra


@pytest.mark.parametrize(
    ("module", "hidden", "arguments"),
    [
        ("graysam.train", {"torch", "lightning"}, ["experiment=quickstart"]),
        ("graysam.train", {"hydra", "omegaconf"}, ["experiment=quickstart"]),
        ("graysam.pack", {"hydra", "omegaconf", "pycocotools"}, ["input_dir=in", "output_dir=out"]),
        (
            "graysam.predict",
            {"torch", "timm"},
            ["-i", "in", "-o", "out", "--model", "lite_medsam", "--backend", "torch"],
        ),
    ],
)
def test_a_missing_extra_is_named_with_its_installation(
    tmp_path: Path, module: str, hidden: set[str], arguments: list[str]
) -> None:
    write_case(tmp_path / "in", "2DBox_US_good", **GOOD["input"])
    done = run_module_without(hidden, module, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "pip install '.[train]'" in done.stderr
    assert all(name in done.stderr for name in hidden - {"omegaconf"})
    assert files(tmp_path) == ["in", "in/2DBox_US_good.npz"]
