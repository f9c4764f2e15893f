"""Taking turns, checking the peer, and what happens when somebody fails; workers are stand-ins that say what to say."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graysam.benchmarking import preparing
from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.contenders import CONTENDERS, choose_contenders
from graysam.benchmarking.harness import WorkerError
from graysam.benchmarking.preparing import main as export
from graysam.benchmarking.preparing import prepare
from graysam.benchmarking.processes import run_to_end
from graysam.benchmarking.segmenters import open_one_box
from graysam.benchmarking.timing import Repeats, Runner, time_case, warm_up
from graysam.inference.exported_model import read_exported
from graysam.io.cases import read_segs
from tests.support.commands import BOXES_2D, image_2d, save_tiny_model, write_case
from tests.support.exported_models import write_tiny_exported

MASKS = np.zeros((128, 160), np.uint16)
MASKS[40:80, 30:70], MASKS[60:80, 110:130] = 1, 2


@pytest.fixture
def case() -> BenchmarkCase:
    return BenchmarkCase("2DBox_US_1", image_2d(), BOXES_2D, (128, 160), gts=MASKS)


class StandIn:
    """A worker with given masks; `log` collects who segmented when, `failing` is the request it fails at."""

    def __init__(self, name: str, log: list[str], masks: np.ndarray = MASKS, failing: str = "") -> None:
        self.name, self.log, self.masks, self.failing = name, log, masks, failing

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        if request == self.failing:
            raise WorkerError("broke", exited=False)
        if request == "segment":
            self.log.append(self.name)
        if request == "write":
            np.savez(arguments["path"], segs=self.masks)
        return {"seconds": 1.0, "peak_bytes": 1, "peak_since_case": True}


def runner(name: str, log: list[str], **more: Any) -> Runner:
    return Runner(CONTENDERS[name], StandIn(name, log, **more))  # type: ignore[arg-type]


def differing(count: int) -> np.ndarray:
    masks = MASKS.copy()
    masks[0, :count] = 1
    return masks


def test_contenders_take_turns_and_nobody_always_comes_first(case: BenchmarkCase, tmp_path: Path) -> None:
    log: list[str] = []
    runners = [runner("l0_int8", log), runner("daft", log), runner("medficientsam", log)]
    results = time_case(case, runners, None, tmp_path, Repeats(3, 10.0))
    ours, daft, last = "l0_int8", "daft", "medficientsam"
    assert log == [ours, *(ours, daft, last), *(daft, last, ours), *(last, ours, daft)], "the first run warms"
    assert [len(result.seconds) for result in results] == [3, 3, 3]
    assert [result.dsc for result in results] == [1.0, 1.0, None], "masks of random weights mean nothing"


def test_the_peers_masks_must_be_graysams(case: BenchmarkCase, tmp_path: Path) -> None:
    """2000 voxels in the foreground, of which 0.1 % may differ."""
    for count, fails in ((0, False), (2, False), (3, True)):
        log: list[str] = []
        peer = runner("litemedsam", log, masks=differing(count))
        checker = StandIn("checker", [])
        (result,) = time_case(case, [peer], checker, tmp_path, Repeats(5, 10.0))  # type: ignore[arg-type]
        assert (result.differing, result.foreground) == (count, 2000)
        assert bool(result.error) == fails
        assert len(result.seconds) == (0 if fails else 5)
        assert len(log) == (1 if fails else 5), "an impostor is not timed on"
        failed = warm_up(case, [peer], checker, tmp_path)  # type: ignore[arg-type]
        assert list(failed) == (["litemedsam"] if fails else [])


def test_without_something_to_check_it_with_the_peer_is_not_timed(case: BenchmarkCase, tmp_path: Path) -> None:
    log: list[str] = []
    checker = StandIn("checker", [], failing="segment")
    peer, ours = time_case(
        case,
        [runner("litemedsam", log), runner("l0_int8", log)],
        checker,  # type: ignore[arg-type]
        tmp_path,
        Repeats(1, 1.0),
    )
    assert "could not be made: broke" in peer.error
    assert not peer.seconds
    assert ours.seconds
    assert "litemedsam" not in log


@pytest.mark.parametrize("request_name", ["read", "segment", "write"])
def test_whoever_fails_has_no_times_and_the_others_go_on(
    case: BenchmarkCase, tmp_path: Path, request_name: str
) -> None:
    log: list[str] = []
    bad, good = time_case(
        case, [runner("daft", log, failing=request_name), runner("l0_int8", log)], None, tmp_path, Repeats(2, 10.0)
    )
    assert (bad.error, bad.seconds) == ("broke", [])
    assert len(good.seconds) == 2


def test_rows_without_weights_are_left_out_unless_asked_for() -> None:
    assert [c.name for c in choose_contenders([], None, {})] == ["litemedsam", "lite_int8", "medficientsam"]
    assert len(choose_contenders([], "weights.pth", {})) == len(CONTENDERS)
    assert [c.name for c in choose_contenders(["daft", "litemedsam"], None, {"daft": Path("x")})] == [
        "litemedsam",
        "daft",
    ]


@pytest.mark.usefixtures("traced_once")
def test_a_plain_bundle_has_the_networks_own_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    weights = str(save_tiny_model(tmp_path / "tiny.safetensors"))
    assert export([weights, "plain", str(tmp_path / "plain")]) == 0
    bundle = read_exported(tmp_path / "plain")
    assert (bundle.precision, bundle.size, set(bundle.graphs)) == (None, 256, {"encoder", "decoder"})
    (tmp_path / "broken.pth").write_bytes(b"no tensors")
    assert export([str(tmp_path / "broken.pth"), "plain", str(tmp_path / "none")]) == 2
    assert "cannot be read as tensors" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_bundles_are_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAYSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("graysam.inference.locating.weights_dir", lambda: tmp_path / "nothing is shipped")
    commands: list[list[str]] = []

    def exported(command: list[str]) -> None:
        commands.append(command[3:])
        write_tiny_exported(Path(command[5]))

    monkeypatch.setattr(preparing, "run_to_end", exported)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    paths = {
        name: prepare(contender, l0=str(weights), channels="paper", bundles={"l0_fp32": tmp_path / "given"})
        for name, contender in CONTENDERS.items()
        for _ in range(2)
    }
    assert paths.pop("litemedsam") is None
    assert paths["l0_fp32"] == tmp_path / "given"
    assert len(set(paths.values())) == 6
    assert commands == [
        ["lite_medsam", "int8", str(paths["lite_int8"])],
        [str(weights), "bf16", str(paths["l0_bf16"]), "paper"],
        [str(weights), "int8", str(paths["l0_int8"]), "paper"],
        [str(weights), "plain", str(paths["daft"]), "paper"],
        [preparing.L1, "plain", str(paths["medficientsam"])],
    ]


def test_why_an_export_failed_is_its_last_line(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('working'); sys.exit('error: no weights')"
    with pytest.raises(WorkerError, match=r"^error: no weights$"):
        run_to_end([sys.executable, "-c", code])
    assert "working" in capfd.readouterr().err, "what it says is seen as it works"


@pytest.mark.slow  # exports and runs 47 million parameters at 512 px
def test_l1_at_512_px_segments_as_medficientsam_does(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "l1"
    assert export([preparing.L1, "plain", str(path)]) == 0
    opened = read_exported(path)
    assert (opened.size, opened.precision) == (512, "f32")
    program = open_one_box(threads=1, exported=str(path))
    program.read(str(write_case(tmp_path, "a", imgs=image_2d(), boxes=BOXES_2D)))
    program.segment()
    program.write(str(tmp_path / "segs.npz"))
    segs = read_segs(tmp_path / "segs.npz")
    assert segs.shape == image_2d().shape
    assert set(np.unique(segs)) <= {0, 1, 2}
