"""Times and masks of competitors on a case, with stand-ins for their workers, and the exported models that they run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graysam.benchmarking import competitors
from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.competitors import COMPETITORS, Exporter, choose_competitors, prepare
from graysam.benchmarking.harness import WorkerError
from graysam.benchmarking.timing import REFERENCE, time_case
from graysam.inference.exported_model import read_exported
from graysam.reporting.schemas import CaseTimes
from tests.support.commands import BOXES_2D, image_2d, save_tiny_model
from tests.support.exported_models import write_tiny_exported

MASKS = np.zeros((128, 160), np.uint16)
MASKS[40:80, 30:70], MASKS[60:80, 110:130] = 1, 2


@pytest.fixture
def case() -> BenchmarkCase:
    return BenchmarkCase("2DBox_US_1", image_2d(), BOXES_2D, (128, 160), gts=MASKS)


class StandIn:
    """A worker with given masks, which counts its runs and fails at a request."""

    def __init__(self, masks: np.ndarray = MASKS, failing: str = "") -> None:
        self.masks, self.failing, self.runs = masks, failing, 0

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        if request == self.failing:
            raise WorkerError("broke", exited=False)
        self.runs += request == "segment"
        if request == "write":
            np.savez(arguments["path"], segs=self.masks)
        return {"seconds": 1.0, "peak_bytes": 1}


def times(case: BenchmarkCase, folder: Path, **workers: Any) -> dict[str, CaseTimes]:
    return {row.competitor: row for row in time_case(case, workers, folder, repeats=3, limit_s=10.0)}


def test_each_competitor_is_timed_after_one_run_and_scored(case: BenchmarkCase, tmp_path: Path) -> None:
    workers = {"l0_int8": StandIn(), "daft": StandIn()}
    rows = times(case, tmp_path, **workers)
    assert [worker.runs for worker in workers.values()] == [4, 4]
    for row in rows.values():
        assert (row.seconds, row.dsc, row.found, row.read_s) == ([1.0] * 3, 1.0, 2, 1.0)


@pytest.mark.parametrize(("count", "fails"), [(0, False), (2, False), (3, True)])
def test_litemedsams_masks_must_equal_graysams(case: BenchmarkCase, tmp_path: Path, count: int, fails: bool) -> None:
    """2000 voxels in the foreground, of which 0.1 % may differ."""
    masks = MASKS.copy()
    masks[0, :count] = 1
    script = StandIn(masks)
    row = times(case, tmp_path, litemedsam=script, **{REFERENCE: StandIn()})["litemedsam"]
    assert (row.differing, row.foreground, bool(row.error)) == (count, 2000, fails)
    assert len(row.seconds) == (0 if fails else 3)
    assert script.runs == (1 if fails else 4), "another network is not timed"


def test_without_a_reference_litemedsam_is_not_timed(case: BenchmarkCase, tmp_path: Path) -> None:
    script = StandIn()
    rows = times(case, tmp_path, litemedsam=script, l0_int8=StandIn(), **{REFERENCE: StandIn(failing="segment")})
    assert "to check it with, failed: broke" in rows["litemedsam"].error
    assert script.runs == 0
    assert rows["l0_int8"].seconds


@pytest.mark.parametrize("request_name", ["read", "segment", "write"])
def test_a_competitor_that_fails_has_no_times_and_the_others_continue(
    case: BenchmarkCase, tmp_path: Path, request_name: str
) -> None:
    rows = times(case, tmp_path, daft=StandIn(failing=request_name), l0_int8=StandIn())
    assert (rows["daft"].error, rows["daft"].seconds) == ("broke", [])
    assert len(rows["l0_int8"].seconds) == 3


def test_rows_without_weights_are_left_out_unless_named() -> None:
    assert [one.name for one in choose_competitors([], None, {})] == ["litemedsam", "lite_int8"]
    assert len(choose_competitors([], "weights.pth", {})) == len(COMPETITORS)
    chosen = choose_competitors(["daft", "litemedsam"], None, {"daft": Path("x")})
    assert [one.name for one in chosen] == ["litemedsam", "daft"]


@pytest.mark.usefixtures("traced_once")
def test_a_plain_export_holds_the_networks_own_graphs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    weights = str(save_tiny_model(tmp_path / "tiny.safetensors"))
    Exporter(1).export(weights, "plain", None, str(tmp_path / "plain"))
    exported = read_exported(tmp_path / "plain")
    assert (exported.precision_hint, exported.size, set(exported.graphs)) == (None, 256, {"encoder", "decoder"})
    (tmp_path / "broken.pth").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        Exporter(1).export(str(tmp_path / "broken.pth"), "plain", None, str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_models_are_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAYSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("graysam.inference.locating.weights_dir", lambda: tmp_path / "nothing is shipped")
    requests: list[dict[str, Any]] = []

    class Recorder:
        def __init__(self, target: str, **options: Any) -> None:
            assert target.endswith("competitors:Exporter")

        def __enter__(self) -> "Recorder":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def ask(self, request: str, **arguments: Any) -> None:
            requests.append(arguments)
            write_tiny_exported(Path(arguments["path"]))

    monkeypatch.setattr(competitors, "Worker", Recorder)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    paths = {name: prepare(one, str(weights), "paper", 1) for _ in range(2) for name, one in COMPETITORS.items()}
    assert paths.pop("litemedsam") is None
    assert [str(path) for path in paths.values()] == [one["path"] for one in requests]
    assert [(one["model"], one["precision"], one["channels"]) for one in requests] == [
        ("lite_medsam", "int8", None),
        *((str(weights), precision, "paper") for precision in ("fp32", "bf16", "int8", "plain")),
    ]
