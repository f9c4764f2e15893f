"""Two real processes over gloo read exactly what one process reads, for any number of workers."""

from pathlib import Path

import pytest

from tests.scripts.epoch_keys import main

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.mark.slow
def test_ranks_and_workers_give_the_same_epochs(toy_shards: Path) -> None:
    one = main([str(toy_shards), "--samples", "8"])
    two = main([str(toy_shards), "--samples", "8", "--ranks", "2", "--workers", "3"])
    assert [epoch["groups"] for epoch in one] == [{"CT_toy": 8, "US": 8}] * 2
    assert [epoch["order"] for epoch in two] == [epoch["order"] for epoch in one]
    assert one[0]["order"] != one[1]["order"]
