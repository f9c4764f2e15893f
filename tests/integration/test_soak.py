"""The soak's first calls, in this process; `python -m tests.scripts.soak` makes 2,000, and 200 of them as processes."""

import json
import sys
from pathlib import Path

import pytest

from tests.scripts.soak import main


@pytest.mark.skipif(sys.platform != "linux", reason="its troubles are of Linux: FIFOs, devices, any bytes in names")
@pytest.mark.usefixtures("user_cache", "threads")
def test_calls_with_random_trouble_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "soak.jsonl"
    assert main(["--calls", "20", "--processes", "0", "--seed", "1", "--log", str(log)]) == 0, capsys.readouterr().out
    with log.open("a") as file:
        file.write('{"call": 20, "se')  # as a kill leaves it
    assert main(["--calls", "30", "--processes", "0", "--seed", "1", "--log", str(log)]) == 0, capsys.readouterr().out
    calls = [json.loads(line)["call"] for line in log.read_text().splitlines()]
    assert calls == list(range(30))
