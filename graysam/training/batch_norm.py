"""Batch norm over all ranks, so that R ranks of batch b train as one process with batch R*b does.

torch's own SyncBatchNorm runs on GPUs only; `CrossRankBatchNorm2d` does the same sums on any device.
"""

import torch
import torch.distributed
from torch import Tensor, nn


class _SumOverRanks(torch.autograd.Function):
    """Sums a tensor over ranks; each rank's gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


class CrossRankBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of all ranks' images: (B,C,H,W) -> (B,C,H,W)."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        # float32 as PyTorch's own, whatever precision the images have
        wide = images.float()
        count = wide.new_tensor([images.numel() / images.shape[1]])
        sums = _SumOverRanks.apply(torch.cat([wide.sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = wide - mean[:, None, None]
        variance = _SumOverRanks.apply(centred.square().sum((0, 2, 3))) / total
        self._follow(mean.detach(), variance.detach() * total / (total - 1))
        scale = self.weight / (variance + self.eps).sqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(images.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased_variance, share)


def synchronise(model: nn.Module, *, gpu: bool) -> None:
    """Replace every BatchNorm2d inside a model by one over all ranks; parameters, buffers and their names stay.

    Args:
        model: where it is at present does not matter.
        gpu: whether it is going to run on a GPU, by torch's own SyncBatchNorm.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                if gpu:
                    setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
                else:
                    child.__class__ = CrossRankBatchNorm2d  # has no state of its own
