"""`python -m graysam.benchmark` from end to end, on tiny networks whose masks are known; all of it without torch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graysam.benchmark import main
from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.running import read_accuracy, time_cold_starts
from tests.support.commands import BOXES_2D, image_2d, write_case
from tests.support.exported_models import write_tiny_exported


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_exported(folder / "ours", kind="int8")
    write_tiny_exported(folder / "plain", plain=True)
    return folder


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Return a folder of one image and one volume with masks."""
    masks = np.zeros(image_2d().shape, np.uint8)
    for label, (x_min, y_min, x_max, y_max) in enumerate(BOXES_2D, start=1):
        inside = np.zeros(masks.shape, bool)
        inside[y_min : y_max + 1, x_min : x_max + 1] = True
        masks[inside & (image_2d() > 128)] = label  # what the tiny models find, to 4 pixels
    volume = np.stack([image_2d()] * 4)
    boxes = np.insert(np.insert(BOXES_2D, 2, [0, 1], axis=1), 5, [2, 3], axis=1)
    write_case(tmp_path / "cases" / "imgs", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    write_case(tmp_path / "cases" / "imgs", "3DBox_MR_2", imgs=volume, boxes=boxes, spacing=np.ones(3))
    write_case(tmp_path / "cases" / "gts", "2DBox_US_1", gts=masks)
    write_case(tmp_path / "cases" / "gts", "3DBox_MR_2", gts=np.stack([masks] * 4), spacing=np.ones(3))
    return tmp_path / "cases"


def benchmark(tmp_path: Path, *arguments: Any) -> tuple[int, dict[str, Any]]:
    """Run the command on one thread into tmp_path/out and return its exit code and document."""
    code = main(["-o", str(tmp_path / "out"), "--threads", "1", *map(str, arguments)])
    path = tmp_path / "out" / "benchmark.json"
    return code, json.loads(path.read_text()) if path.is_file() else {}


def test_a_run_times_every_competitor_on_every_case(
    tmp_path: Path, cases: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--exported", f"l0_int8={models / 'ours'}", "--exported", f"daft={models / 'plain'}"]
    chosen = ["--input", cases, "--competitors", "l0_int8,daft", "--repeats", 2, "--cold", 1]
    code, document = benchmark(tmp_path, *chosen, *given)
    assert code == 0, capsys.readouterr().err
    rows = {(row["competitor"], row["case"]): row for row in document["results"]}
    assert set(rows) == {(name, case) for name in ("l0_int8", "daft") for case in ("2DBox_US_1", "3DBox_MR_2")}
    for row in rows.values():
        assert len(row["seconds"]) == 2 and min(*row["seconds"], row["read_s"], row["write_s"]) > 0
        assert row["found"] == 2 and row["peak_bytes"] > 10 << 20
        assert row["dsc"] > 0.75, "masks on the tiny network's coarse grid"
    assert [one["name"] for one in document["cold"]] == ["l0_int8", "l0_int8_uncached"]
    assert all(one["case"] == "2DBox_US_1" and len(one["seconds"]) == 1 for one in document["cold"])
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "Times as fast as DAFT's way" in text
    assert "Times as fast as LiteMedSAM" not in text, "it did not take part"
    assert document["settings"]["slices"] is None, "all of a folder's own volumes"
    assert text in capsys.readouterr().out
    assert not list((tmp_path / "out").glob(".*")), "nothing temporary is left"


def test_competitors_and_cases_that_fail_are_named_and_the_others_continue(
    tmp_path: Path, cases: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    write_tiny_exported(broken)
    (broken / "encoder.bin").unlink()
    (cases / "imgs" / "2DBox_US_1.npz").write_bytes(b"no zip")
    given = ["--exported", f"l0_int8={broken}", "--exported", f"daft={models / 'plain'}"]
    code, document = benchmark(tmp_path, "--input", cases, "--competitors", "l0_int8,daft", "--repeats", 1, *given)
    assert code == 1
    assert "encoder.bin is missing" in document["competitors"]["l0_int8"]["failed"]
    assert [(row["competitor"], row["case"]) for row in document["results"]] == [("daft", "3DBox_MR_2")]
    assert list(document["errors"]) == ["2DBox_US_1"]
    assert "error: graysam L0 int8: " in capsys.readouterr().err
    assert "- failed: graysam L0 int8" in (tmp_path / "out" / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--input cases --competitors sam2", "unknown competitors: sam2; available are litemedsam"),
        ("--input cases --competitors l0_int8", "give --l0 FILE"),
        ("--input absent", "absent is not a directory"),
        ("--input cases --accuracy daft=cases/metrics.csv", "no such competitor in this run"),
        ("--input cases --accuracy litemedsam=x.csv", "x.csv is not a metrics.csv"),
    ],
)
def test_invalid_arguments_are_one_line(
    tmp_path: Path, cases: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (cases / "metrics.csv").write_text("case,modality,dsc,nsd,nsd_contour\na,CT,0.5,0.4,0\n")
    assert benchmark(tmp_path, *arguments.replace("cases", str(cases)).split())[0] == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_accuracy_from_elsewhere_is_averaged_over_modalities(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("case,modality,dsc,nsd,nsd_contour\na,CT,0.5,0.4,0\nb,CT,0.7,0.6,0\nc,US,0.9,1,0\n")
    assert read_accuracy(path) == {"dsc": pytest.approx(0.75), "nsd": pytest.approx(0.75)}
    path.write_text("case,modality,dsc,nsd,nsd_contour\n")
    with pytest.raises(ValueError, match="holds no case"):
        read_accuracy(path)


def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path: Path, cases: Path, models: Path) -> None:
    (tmp_path / "temporary").mkdir()
    arguments = ["-o", tmp_path / "out", "--input", cases, "--exported", f"daft={models / 'plain'}"]
    arguments += ["--competitors", "daft", "--repeats", "100000", "--repeat-seconds", "1000", "--threads", "1"]
    command = [sys.executable, "-m", "graysam.benchmark", *map(str, arguments)]
    variables = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables) as process:
        while not list((tmp_path / "temporary").glob("*/segs.npz")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == "error: interrupted; nothing is written\n"
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "out").iterdir())


def test_cold_starts_are_interleaved_and_a_failing_command_stops(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    script = tmp_path / "segment.py"
    script.write_text(
        "import shutil, sys\nfrom pathlib import Path\n"
        "name, _, source, _, target = sys.argv[1:]\n"
        f"open({str(log)!r}, 'a').write(name)\n"
        "if name == 'c': sys.exit('broke')\n"
        "Path(target).mkdir(exist_ok=True)\n"
        "if name != 'd': shutil.copy(next(Path(source).glob('*')), target)\n"
    )
    commands = [(name, name, ["python", str(script), name]) for name in "abcd"]
    case = BenchmarkCase("case", image_2d(), BOXES_2D)
    first, second, broken, lazy = time_cold_starts(case, commands, repeats=2, threads=1)
    assert log.read_text() == "abcd" + "ba" + "ab"
    assert (len(first.seconds), len(second.seconds)) == (2, 2)
    assert broken.error == "broke"
    assert "without writing masks" in lazy.error
