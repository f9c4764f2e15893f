"""Schedules of the learning rate that follow optimizer steps instead of epochs."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR


class WarmupCosine(SequentialLR):
    """Rise linearly to the full rate, then fall to zero along half a cosine; stepped after every optimizer step.

    Args:
        optimizer: each of its groups keeps its share of the rate.
        warmup_steps: optimizer steps of the rise; the first has 1 / `warmup_steps` of the rate.
        total_steps: optimizer steps of the run.

    Raises:
        ValueError: a rise of no step, or as long as the run.
    """

    def __init__(self, optimizer: Optimizer, *, warmup_steps: int, total_steps: int) -> None:
        if not 1 <= warmup_steps < total_steps:
            raise ValueError(
                f"scheduler.warmup_steps is {warmup_steps}; required: 1 or more, below scheduler.total_steps, "
                f"{total_steps} (set trainer.max_steps)"
            )
        rise = LinearLR(optimizer, start_factor=1 / warmup_steps, total_iters=max(1, warmup_steps - 1))
        fall = CosineAnnealingLR(optimizer, T_max=total_steps - warmup_steps)
        super().__init__(optimizer, [rise, fall], milestones=[warmup_steps])
