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
        total = value.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, gradients[0])


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
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.momentum is not None and self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(images.dtype)


def synchronise(model: nn.Module, *, gpu: bool) -> None:
    """Take the batch norm statistics of a model over all ranks; parameters, buffers and their names stay.

    Args:
        model: where it is at present does not matter.
        gpu: whether it is going to run on a GPU, by torch's own SyncBatchNorm.
    """
    if gpu:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CrossRankBatchNorm2d  # has no state of its own
