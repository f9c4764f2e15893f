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

from graysam.benchmark import main, parser, plan, read_accuracy
from graysam.benchmarking import cold
from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.contenders import CONTENDERS
from graysam.benchmarking.harness import Worker, WorkerError
from graysam.benchmarking.machine import matmul_peak
from graysam.benchmarking.profile import macs, profile_encoder
from graysam.benchmarking.segmenters import peak_bytes, reset_peak
from tests.support.commands import BOXES_2D, image_2d, write_case
from tests.support.exported_models import write_tiny_exported

ONE_BOX = "graysam.benchmarking.segmenters:open_one_box"
WHAT_IS_BRIGHT = image_2d() > 128  # what the tiny bundles find, to a cell


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
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
        masks[inside & WHAT_IS_BRIGHT] = label
    volume = np.stack([image_2d()] * 4)
    boxes = np.insert(np.insert(BOXES_2D, 2, [0, 1], axis=1), 5, [2, 3], axis=1)
    write_case(tmp_path / "cases" / "imgs", "2DBox_US_1", imgs=image_2d(), boxes=BOXES_2D)
    write_case(tmp_path / "cases" / "imgs", "3DBox_MR_2", imgs=volume, boxes=boxes, spacing=np.ones(3))
    write_case(tmp_path / "cases" / "gts", "2DBox_US_1", gts=masks)
    write_case(tmp_path / "cases" / "gts", "3DBox_MR_2", gts=np.stack([masks] * 4), spacing=np.ones(3))
    return tmp_path / "cases"


def benchmark(tmp_path: Path, *arguments: Any) -> tuple[int, dict[str, Any]]:
    """Run the command on one thread into tmp_path/out and return its exit code and document."""
    code = main(["-o", str(tmp_path / "out"), "--threads", "1", "--no-peaks", *map(str, arguments)])
    path = tmp_path / "out" / "benchmark.json"
    return code, json.loads(path.read_text()) if path.is_file() else {}


def test_a_run_times_every_contender_on_every_case(
    tmp_path: Path, cases: Path, bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--bundle", f"l0_int8={bundles / 'ours'}", "--bundle", f"daft={bundles / 'plain'}"]
    code, document = benchmark(
        tmp_path, "--input", cases, "--contenders", "l0_int8,daft", "--repeats", 2, *given, "--cold", 1,
        "--cold-cases", "US",
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    rows = {(row["contender"], row["case"]): row for row in document["results"]}
    assert set(rows) == {(name, case) for name in ("l0_int8", "daft") for case in ("2DBox_US_1", "3DBox_MR_2")}
    for row in rows.values():
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0
        assert row["found"] == 2
        assert row["read_s"] > 0
        assert row["write_s"] > 0
        assert row["dsc"] > 0.75, "masks on the tiny network's coarse cells"
        assert row["peak_bytes"] > 10 << 20
    assert [entry["name"] for entry in document["cold"]] == ["l0_int8", "l0_int8_uncached"]
    assert all(len(entry["seconds"]) == 1 and not entry["error"] for entry in document["cold"])
    assert document["cold"][0]["parts"]["model"] > 0
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "Times as fast as DAFT's way" in text
    assert "Times as fast as LiteMedSAM" not in text, "it did not take part"
    assert document["settings"]["slices"] is None, "all of a folder's own volumes"
    assert text in capsys.readouterr().out
    assert not list((tmp_path / "out").glob(".*")), "nothing temporary is left"


def test_a_contender_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, cases: Path, bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    write_tiny_exported(broken)
    (broken / "encoder.bin").unlink()
    given = ["--bundle", f"l0_int8={broken}", "--bundle", f"daft={bundles / 'plain'}"]
    code, document = benchmark(
        tmp_path, "--input", cases, "--cases", "US", "--contenders", "l0_int8,daft", "--repeats", 1, *given
    )
    assert code == 1
    assert "encoder.bin is missing" in document["contenders"]["l0_int8"]["failed"]
    assert [row["contender"] for row in document["results"]] == ["daft"]
    assert "error: graysam L0 int8: " in capsys.readouterr().err
    assert "- failed: graysam L0 int8" in (tmp_path / "out" / "benchmark.md").read_text()


def test_a_case_that_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path, cases: Path, bundles: Path) -> None:
    (cases / "imgs" / "2DBox_US_1.npz").write_bytes(b"no zip")
    code, document = benchmark(
        tmp_path, "--input", cases, "--contenders", "daft", "--bundle", f"daft={bundles / 'plain'}", "--repeats", 1
    )
    assert code == 1
    assert list(document["cases"]) == ["3DBox_MR_2"]
    assert "2DBox_US_1" in document["troubles"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "cases", "--contenders", "sam2"], "unknown contenders: sam2; there are litemedsam"),
        (["--input", "cases", "--contenders", "l0_int8"], "give --l0 FILE"),
        (["--input", "cases", "--bundle", "litemedsam=x", "--contenders", "litemedsam"], "runs no bundle"),
        (["--input", "absent"], "absent is no folder"),
        (["--gts", "absent"], "--gts goes with --input"),
        (["--input", "cases", "--cases", "OCT"], "no case is named OCT"),
        (
            ["--input", "cases", "--contenders", "litemedsam", "--accuracy", "daft=x.csv"],
            "no such contender in this run",
        ),
        (
            ["--input", "cases", "--contenders", "litemedsam", "--accuracy", "litemedsam=x.csv"],
            "x.csv is not a metrics.csv",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    tmp_path: Path,
    cases: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _ = benchmark(tmp_path, *arguments)
    assert code == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_options_that_make_no_sense_are_refused() -> None:
    for arguments in (["--threads", "0"], ["--slices", "none"], ["--bundle", "l0_int8"], []):
        with pytest.raises(SystemExit) as stopped:
            main(["-o", "out", *arguments] if arguments else [])
        assert stopped.value.code == 2


def test_accuracy_from_elsewhere_is_averaged_over_modalities(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("case,modality,dsc,nsd,nsd_contour\na,CT,0.5,0.4,0\nb,CT,0.7,0.6,0\nc,US,0.9,1,0\n")
    assert read_accuracy(path) == {"dsc": pytest.approx(0.75), "nsd": pytest.approx(0.75)}
    path.write_text("case,modality,dsc,nsd,nsd_contour\n")
    with pytest.raises(ValueError, match="holds no case"):
        read_accuracy(path)


def test_a_worker_that_dies_says_so_and_leaves_no_process(tmp_path: Path, bundles: Path) -> None:
    with Worker(ONE_BOX, threads=1, exported=str(bundles / "plain")) as worker:
        with pytest.raises(WorkerError, match=r"absent\.npz") as failed:
            worker.ask("read", path="absent.npz")
        assert not failed.value.exited, "a bad case is no end"
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="SIGKILL") as died:
            worker.ask("segment")
        assert died.value.exited
    assert worker.process.returncode is not None


def test_a_worker_ends_with_its_input_in_the_middle_of_its_work(tmp_path: Path, bundles: Path) -> None:
    """So that none outlives a benchmark that was killed."""
    boxes = np.tile(np.insert(np.insert(BOXES_2D[:1], 2, 0, axis=1), 5, 99, axis=1), (400, 1))
    volume = np.stack([image_2d()] * 100)
    path = write_case(tmp_path, "3DBox_MR_1", imgs=volume, boxes=boxes, spacing=np.ones(3))
    with Worker(ONE_BOX, threads=1, exported=str(bundles / "plain")) as worker:
        worker.ask("read", path=str(path))
        assert worker.process.stdin is not None
        worker.process.stdin.write('{"request": "segment"}\n')  # 40000 masks
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert worker.process.wait(60) == 0


def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path: Path, cases: Path, bundles: Path) -> None:
    (tmp_path / "temporary").mkdir()
    arguments = ["-o", tmp_path / "out", "--input", cases, "--bundle", f"daft={bundles / 'plain'}", "--no-peaks"]
    arguments += ["--contenders", "daft", "--repeats", "100000", "--repeat-seconds", "1000", "--threads", "1"]
    command = [sys.executable, "-m", "graysam.benchmark", *map(str, arguments)]
    variables = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables) as process:
        while not list((tmp_path / "temporary").glob("*/case.npz")):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "error: stopped before the end; nothing is written\n"
    assert not list((tmp_path / "temporary").iterdir())
    assert not list((tmp_path / "out").iterdir())


def test_cold_starts_take_turns_and_a_failing_command_is_out(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    script = tmp_path / "segment.py"
    script.write_text(
        "import shutil, sys\nfrom pathlib import Path\n"
        "name, _, source, _, target = sys.argv[1:]\n"
        f"open({str(log)!r}, 'a').write(name)\n"
        "if name == 'c': sys.exit('broke')\n"
        "Path(target).mkdir(exist_ok=True)\n"
        "if name != 'd': shutil.copy(next(Path(source).glob('*')), target)\n"
        "print('timing: imports 0.250, model 1.500; in all 1.750 s')\n"
    )
    commands = [cold.Start(name, name, ["python", str(script), name]) for name in "abcd"]
    case = BenchmarkCase("case", image_2d(), BOXES_2D, (128, 160))
    first, second, broken, lazy = cold.time_starts(case, commands, repeats=2, threads=1)
    assert log.read_text() == "abcd" + "ab" * 2
    assert (len(first["seconds"]), len(second["seconds"])) == (2, 2)
    assert first["parts"] == {"imports": 0.25, "model": 1.5}
    assert broken["error"] == "broke"
    assert "no masks" in lazy["error"]


def test_memory_peaks_count_anew(tmp_path: Path) -> None:
    np.ones(1 << 25)  # 256 MiB, given back at once
    before = peak_bytes()
    if before is None or not reset_peak():
        pytest.skip("this system does not count anew")
    assert peak_bytes() < before - (100 << 20)


def test_operations_are_counted_in_the_graph() -> None:
    """By hand: each output element of a layer takes so many multiplications."""
    import openvino as ov
    from openvino import opset13 as op

    images = op.parameter([1, 3, 8, 8], np.float32)
    node = op.convolution(images, np.zeros((4, 3, 3, 3), np.float32), [2, 2], [1, 1], [1, 1], [1, 1])
    assert macs(ov.Model([node], [images], "m")) == 4 * 4 * 4 * (3 * 9)
    grouped = op.group_convolution(node, np.zeros((2, 3, 2, 1, 1), np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
    assert macs(ov.Model([grouped], [images], "m")) == 1728 + 6 * 4 * 4 * 2
    upwards = op.convolution_backprop_data(
        node, np.zeros((4, 5, 2, 2), np.float32), [2, 2], pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1]
    )
    assert macs(ov.Model([upwards], [images], "m")) == 1728 + 4 * 4 * 4 * 5 * 4
    left, right = op.parameter([2, 7, 5], np.float32), op.parameter([2, 7, 11], np.float32)
    product = op.matmul(left, right, True, False)
    assert macs(ov.Model([product], [left, right], "m")) == 2 * 5 * 11 * 7


def test_an_encoders_profile(bundles: Path) -> None:
    found = profile_encoder(bundles / "ours" / "encoder.xml", 1, "f32")
    assert found["seconds"] > 0
    assert found["computed_in"] == "f32"
    assert found["layers"]
    assert found["layers"][0]["seconds"] == max(layer["seconds"] for layer in found["layers"])


def test_the_machines_peak_says_what_it_ran_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graysam.benchmarking.machine._SECONDS", 0.05)
    found = matmul_peak("f32", 1, sides=(64, 128))
    assert found["gops"] > 0.1
    assert found["ran_in"] == "f32"
    quantized = matmul_peak("int8", 1, sides=(64,))
    assert quantized["ran_in"] in ("u8", "i8"), "not a floating-point product with rounding around it"


def test_the_load_is_of_before_its_own_exports(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = [0.25]
    monkeypatch.setattr(os, "getloadavg", lambda: (load[0], 0.0, 0.0))
    monkeypatch.setattr("graysam.benchmark.prepare", lambda *_, **__: load.__setitem__(0, 2.0))
    given = ["-o", str(tmp_path / "out"), "--input", str(cases / "imgs"), "--contenders", "lite_int8"]
    assert plan(parser().parse_args(given))[2].load == 0.25
    assert load == [2.0], "an export came after it"


def test_the_rows_are_those_of_the_plan() -> None:
    assert list(CONTENDERS) == ["litemedsam", "lite_int8", "l0_fp32", "l0_bf16", "l0_int8", "daft", "medficientsam"]
    assert [name for name, contender in CONTENDERS.items() if not contender.trained] == ["medficientsam"]
