"""The competitors that take part, the exported models that they run, and their times on a case."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graysam.benchmarking import competitors
from graysam.benchmarking.cases import BenchmarkCase
from graysam.benchmarking.competitors import COMPETITORS, choose_competitors, export, find_exported
from graysam.benchmarking.running import time_case
from graysam.inference.exported_model import exported_path, read_exported
from tests.support.commands import BOXES_2D, image_2d, save_tiny_model
from tests.support.exported_models import write_tiny_exported


def test_rows_without_weights_are_left_out_unless_named() -> None:
    assert [one.name for one in choose_competitors([], None, {})] == ["litemedsam", "lite_int8"]
    assert len(choose_competitors([], "weights.pth", {})) == len(COMPETITORS)
    chosen = choose_competitors(["daft", "litemedsam"], None, ["daft"])
    assert [one.name for one in chosen] == ["litemedsam", "daft"]


@pytest.mark.usefixtures("traced_once", "user_cache")
def test_a_plain_export_holds_the_networks_own_graphs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    weights = str(save_tiny_model(tmp_path / "tiny.safetensors"))
    export(1, weights, "plain", None)
    exported = read_exported(exported_path(weights, "plain"))
    assert (exported.precision_hint, exported.size, set(exported.graphs)) == (None, 256, {"encoder", "decoder"})


@pytest.mark.usefixtures("user_cache")
def test_models_are_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graysam.inference.exported_model.weights_dir", lambda: tmp_path / "nothing is shipped")
    requests: list[tuple[str, str, str | None]] = []

    def record(target: str, *, threads: int, model: str, precision: str, channels: str | None) -> Any:
        assert target.endswith("competitors:export")
        requests.append((model, precision, channels))
        write_tiny_exported(exported_path(model, precision, channels))
        return nullcontext()

    monkeypatch.setattr(competitors, "Worker", record)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    for _ in range(2):
        paths = [find_exported(one, str(weights), "paper", 1) for one in COMPETITORS.values()]
        assert [path is not None and path.is_dir() for path in paths] == [False] + [True] * 5
    assert requests == [
        ("lite_medsam", "int8", None),
        *((str(weights), precision, "paper") for precision in ("fp32", "bf16", "int8", "plain")),
    ]


class StandIn:
    """A worker with perfect masks, which counts its runs and fails at a request."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.runs = failing, 0

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        if request == self.failing:
            raise ChildProcessError("broke")
        self.runs += request == "segment"
        if request == "write":
            np.savez(arguments["path"], segs=MASKS)
        return {"seconds": 1.0, "peak_bytes": 1}


MASKS = np.zeros((128, 160), np.uint16)
MASKS[40:80, 30:70], MASKS[60:80, 110:130] = 1, 2


@pytest.mark.parametrize("failing", ["read", "segment", "write"])
def test_each_competitor_is_timed_after_one_run_and_scored_and_one_may_fail(failing: str) -> None:
    case = BenchmarkCase("2DBox_US_1", image_2d(), BOXES_2D, gts=MASKS)
    workers: dict[str, Any] = {"daft": StandIn(failing), "l0_int8": StandIn()}
    broken, row = time_case(case, workers, repeats=3, limit_s=10.0)
    assert (broken.competitor, broken.error, broken.seconds) == ("daft", "broke", [])
    assert workers["l0_int8"].runs == 4
    assert (row.seconds, row.dsc, row.nsd, row.found, row.read_s) == ([1.0] * 3, 1.0, 1.0, 2, 1.0)
