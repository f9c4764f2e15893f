"""The learning rate by optimizer steps."""

import math

import pytest
import torch

from graysam.training.schedules import WarmupCosine


def test_the_rate_rises_and_falls_to_zero_for_each_group() -> None:
    parts = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [parts[0]]}, {"params": [parts[1]], "lr": 0.1}], lr=1.0)
    schedule = WarmupCosine(optimizer, warmup_steps=4, total_steps=12)
    rates = []
    for step in range(12):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
        if step == 6:  # a resumed run
            other = torch.optim.SGD([{"params": [parts[0]]}, {"params": [parts[1]], "lr": 0.1}], lr=1.0)
            resumed = WarmupCosine(other, warmup_steps=4, total_steps=12)
            other.load_state_dict(optimizer.state_dict())
            resumed.load_state_dict(schedule.state_dict())
            optimizer, schedule = other, resumed
    assert [rate for rate, _ in rates[:4]] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    falling = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert [rate for rate, _ in rates[4:]] == pytest.approx(falling)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert [second / first for first, second in rates] == pytest.approx([0.1] * 12)


@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (10, 10), (5, -1)])
def test_a_rise_without_a_fall_is_refused(warmup: int, total: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=r"scheduler\.warmup_steps is .*; required: 1 or more, below"):
        WarmupCosine(optimizer, warmup_steps=warmup, total_steps=total)
