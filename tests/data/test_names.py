"""No name of a file ends a packing: keys are made safe and unique, and the name stays in meta.json and the manifest."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from graysam.data import packing
from graysam.data.shards import INDEX_NAME, MANIFEST_NAME, ShardReader
from graysam.data.sources import ImageSource
from tests.support.packing import DEFAULTS, SQUARE, pack, picture, save

UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def image(folder: Path, name: str, seed: int = 0) -> Path:
    return save(folder / f"{name}.npz", imgs=picture(seed, 256, 200), gts=SQUARE)


def volume(folder: Path, name: str) -> Path:
    return save(folder / f"{name}.npz", imgs=picture(0, 2, 256, 200), gts=np.stack([SQUARE] * 2), spacing=np.ones(3))


def packed(raw: Path, target: Path) -> tuple[dict[str, Any], ShardReader]:
    manifest = pack(raw, target)
    assert manifest == json.loads((target / MANIFEST_NAME).read_text("utf-8"))
    assert manifest["cases"]["bad"] == {}
    return manifest, ShardReader(target)


def test_names_as_archives_give_them_are_packed_under_shortened_keys(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    volume(raw, f"CT_LIDC_patient-0001_{UID}")
    volume(raw, "CT_LIDC_patient-0002")
    for end in "ab":  # they differ at the end alone, of the 255 bytes of a file name
        image(raw, "US_toy_" + "x" * 243 + end)
    image(raw, "US_toy_" + "é" * 40)
    manifest, reader = packed(raw, tmp_path / "out")
    assert len(set(reader.keys)) == len(reader) == 7
    assert max(len(key.encode()) for key in reader.keys) == 80
    assert [key for key in reader.keys if key.startswith("CT_LIDC_patient-0002")] == [
        f"CT_LIDC_patient-0002_z000{z}" for z in range(2)
    ]
    names = {reader.read(row).meta["case_id"] for row in range(len(reader))}
    assert names == {path.stem for path in raw.iterdir()}
    shortened = manifest["shortened_keys"]
    assert sorted(shortened.values()) == sorted(path.name for path in raw.iterdir() if "0002" not in path.name)
    assert all(any(key.startswith(begin) for key in reader.keys) for begin in shortened)
    (raw / "CT_LIDC_patient-0002.npz").unlink()
    again, _ = packed(raw, tmp_path / "again")
    assert again["shortened_keys"] == shortened, "the same key each time"


@pytest.mark.parametrize(
    "files",
    [
        ("US_toy_a.1", "US_toy_a-1", "US_toy_a 1"),
        ("one/US_toy_1", "two/US_toy_1"),
        (f"US_toy_{NOT_UTF8}", os.fsdecode(b"US_toy_caf\xea"), "US_toy_café"),
        ("US_toy_100%\n", "US_toy_100%\t"),
    ],
)
def test_names_that_would_get_one_key_are_kept_apart(tmp_path: Path, files: tuple[str, ...]) -> None:
    for seed, file in enumerate(files):
        image(tmp_path / "raw", file, seed)
    manifest, reader = packed(tmp_path / "raw", tmp_path / "out")
    assert len(set(reader.keys)) == len(files)
    assert set(manifest["shortened_keys"].values()) <= {f"{file}.npz" for file in files}
    assert sorted(reader.read(row).meta["case_id"] for row in range(len(reader))) == sorted(
        Path(file).name for file in files
    )
    pack(tmp_path / "raw", tmp_path / "slices", split_by="slice")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_name_that_is_not_utf8_takes_nothing_with_it(
    tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    image(raw, f"US_toy_{NOT_UTF8}")
    image(raw, "US_toy_plain")
    volume(raw, f"{NOT_UTF8}_{NOT_UTF8}_patient")  # modality and data set
    (raw / f"{NOT_UTF8}.npz").write_bytes(b"no case")
    given = {**DEFAULTS, "input_dir": str(raw), "output_dir": str(tmp_path / "out"), "workers": workers}
    assert packing.run_pack(**{key: value for key, value in given.items() if key != "_target_"}) == 1
    reader = ShardReader(tmp_path / "out")
    assert len(reader) == 4
    assert {reader.read(row).meta["case_id"] for row in range(4)} == {
        path.stem for path in raw.iterdir() if path.stem != NOT_UTF8
    }
    manifest = json.loads((tmp_path / "out" / MANIFEST_NAME).read_text("utf-8"))
    assert list(manifest["cases"]["bad"]) == [f"{NOT_UTF8}.npz"]
    assert "caf\\udce9" in (tmp_path / "out" / INDEX_NAME).read_text("utf-8")
    assert "1 of 4 files were left out" in capfd.readouterr().err


def test_pictures_of_any_name_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "in" / NOT_UTF8
    folder.mkdir(parents=True)
    names = ["a b.png", "a-b.png", f"{NOT_UTF8}.png", "y" * 251 + ".png"]
    for seed, name in enumerate(names):
        (folder / name).write_bytes(cv2.imencode(".png", picture(seed, 256, 200))[1].tobytes())
    source = ImageSource(folder=tmp_path / "in", size=256)
    manifest = packing.pack(source, tmp_path / "out", samples_per_shard=4, split=None)
    reader = ShardReader(tmp_path / "out")
    assert manifest["cases"]["bad"] == {}
    assert len(set(reader.keys)) == 4 and set(reader.groups) == {"unlabelled_caf-"}
    assert {Path(reader.read(row).meta["case_id"]).name for row in range(4)} == set(names)


def test_evaluate_scores_cases_of_any_name_and_names_them(tmp_path: Path) -> None:
    for name in ("US_plain", f"US_{NOT_UTF8}", "US_" + "z" * 248, f"US_{NOT_UTF8}_absent"):
        save(tmp_path / "gts" / f"{name}.npz", gts=SQUARE)
        save(tmp_path / "imgs" / f"{name}.npz", imgs=picture(0, 256, 200), boxes=np.array([[30, 10, 59, 19]]))
        if "absent" not in name:
            save(tmp_path / "segs" / f"{name}.npz", segs=SQUARE)
    arguments = ["-s", "segs", "-g", "gts", "-o", "metrics.csv", "--overlay", NOT_UTF8, "--images", "imgs"]
    command = [sys.executable, "-m", "graysam.evaluate", *arguments, "--workers", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1, done.stderr
    assert rb"left out: US_caf\udce9_absent" in done.stderr and b"Traceback" not in done.stderr
    cases = [line.split(",")[0] for line in (tmp_path / "metrics.csv").read_text("utf-8").splitlines()[1:]]
    assert sorted(cases) == sorted(["US_plain", "US_caf\\udce9", "US_" + "z" * 248])
    assert len(list((tmp_path / NOT_UTF8).glob("*.png"))) == 3
