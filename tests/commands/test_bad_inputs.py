"""Bad input to the commands that need torch: exit code 2, one line that names file and reason, nothing half-written.

What makes a file bad is shown function by function in the tests of io, data and models; here the commands report it.
"""

import hashlib
import logging
import pickle
import re
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graysam.predict
import graysam.train
from graysam.data.shards import MANIFEST_NAME
from graysam.system.files import sha256_of
from tests.support.commands import Trap, run_module_without, save_tiny_model, write_case
from tests.support.tiny import overrides

IMAGE = np.full((40, 50), 90, np.uint8)


def files(folder: Path) -> list[str]:
    """Return all files below a folder, hidden and temporary ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *more: str) -> int:
    for name in (None, "lightning", "lightning.pytorch", "lightning.fabric"):
        # Handlers that Hydra and Lightning set keep the standard error of an earlier test, which is closed by now.
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    monkeypatch.setattr(sys, "argv", ["train", *overrides(tmp_path / "shards", tmp_path / "run", *more)])
    return graysam.train.main()


WEIGHTS: dict[str, Callable[[Path, Path], Any]] = {  # a path and a trap -> a bad weight file
    "missing": lambda path, trap: None,
    "folder": lambda path, trap: path.mkdir(),
    "pickle": lambda path, trap: torch.save({"state_dict": {"image_encoder.x": Trap(trap)}}, path),
    "keys left out": lambda path, trap: save_without_a_key(save_tiny_model(path.with_suffix(".ckpt")), path),
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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    command: str,
) -> None:
    weights = tmp_path / "w.pth"
    WEIGHTS[kind](weights, tmp_path / "trap")
    if command == "predict":
        write_case(tmp_path / "in", "2DBox_US_good", imgs=IMAGE, boxes=np.array([[10, 10, 29, 19]]))
        folders = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
        assert graysam.predict.main([*folders, "--model", str(weights)]) == 2
    else:
        (tmp_path / "shards").symlink_to(toy_shards)
        assert train(monkeypatch, tmp_path, f"{command.split()[1]}={weights}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(weights) in error
    assert not {"out", "run", "trap"} & set(files(tmp_path))


@pytest.mark.parametrize(
    ("written", "reason"),
    [("shards/shard-000001.tar", "1 bytes; required"), (f"shards/{MANIFEST_NAME}", "damaged"), ("run", "run")],
)
def test_train_on_bad_shards_or_into_a_file(
    tmp_path: Path,
    toy_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written: str,
    reason: str,
) -> None:
    shutil.copytree(toy_shards, tmp_path / "shards")
    (tmp_path / written).write_text("x")
    assert train(monkeypatch, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert reason in error and str(tmp_path / written.partition("/")[0]) in error
    assert (tmp_path / written).read_text() == "x" and not (tmp_path / "run").is_dir()


def replace_pngs(folder: Path, suffix: str, content: bytes) -> None:
    """Give every image's member in every shard another suffix of three letters and other first bytes, in place.

    Sizes, offsets, checksums of the headers and the manifest's hash stay right: nothing but the member itself tells.
    """
    manifest = (folder / "manifest.json").read_text()
    for shard in folder.glob("*.tar"):
        data = bytearray(shard.read_bytes())
        with tarfile.open(shard) as tar:
            infos = [info for info in tar if info.name.endswith(".png")]
        for info in infos:
            data[info.offset_data : info.offset_data + len(content)] = content
            info.name = f"{info.name.removesuffix('png')}{suffix}"
            data[info.offset : info.offset + 512] = info.tobuf(tarfile.USTAR_FORMAT)
        manifest = manifest.replace(sha256_of(shard), hashlib.sha256(data).hexdigest())
        shard.write_bytes(data)
    (folder / "manifest.json").write_text(manifest)


@pytest.mark.parametrize(("suffix", "reason", "workers"), [("pkl", "it was not opened", 0), ("png", "damaged", 1)])
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
    assert "Traceback" not in error
    (line,) = (line for line in error.splitlines() if "error: " in line)
    assert re.match(rf"error: {tmp_path}/shards/shard-\d+\.tar, sample (US|CT_toy)-\d: .*{reason}", line)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("hidden", "command"),
    [
        ({"torch", "lightning"}, "train experiment=proposed"),
        ({"hydra", "omegaconf", "pycocotools"}, "pack input_dir=in output_dir=out"),
        ({"torch", "timm"}, "predict -i in -o out --model lite_medsam --backend torch"),
    ],
)
def test_a_missing_extra_is_named_with_its_installation(tmp_path: Path, hidden: set[str], command: str) -> None:
    write_case(tmp_path / "in", "2DBox_US_good", imgs=IMAGE, boxes=np.array([[10, 10, 29, 19]]))
    name, *arguments = command.split()
    done = run_module_without(hidden, f"graysam.{name}", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "pip install '.[train]'" in done.stderr
    assert all(name in done.stderr for name in hidden - {"omegaconf"})
    assert files(tmp_path) == ["in", "in/2DBox_US_good.npz"]
