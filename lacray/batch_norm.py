"""Batch norm over the joined batch of all processes: n of them normalise as one would that has all their pictures."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


class _SharedStatistics(_BatchNorm):
    """What a batch norm of any number of dimensions shares; alone in its process group it is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        # Half precision could not even count the pixels.
        dtype, input = input.dtype, input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        others = [axis for axis in range(input.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.dim())]
        sums = torch.cat([input.sum(dim=others), input.new_tensor([input.numel() / input.shape[1]])])
        sums = _SumOverProcesses.apply(sums)
        count, mean = sums[-1], sums[:-1] / sums[-1]
        centred = input - mean.view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(dim=others)) / count
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class SharedBatchNorm1d(_SharedStatistics, nn.BatchNorm1d):
    """Batch norm of (S, C) or (S, C, T) over the batches of all processes, on any device."""


class SharedBatchNorm2d(_SharedStatistics, nn.BatchNorm2d):
    """Batch norm of (S, C, H, W) over the batches of all processes, on any device."""


class SharedBatchNorm3d(_SharedStatistics, nn.BatchNorm3d):
    """Batch norm of (S, C, D, H, W) over the batches of all processes, on any device."""


SHARED: dict[type[nn.Module], type[_SharedStatistics]] = {
    nn.BatchNorm1d: SharedBatchNorm1d,
    nn.BatchNorm2d: SharedBatchNorm2d,
    nn.BatchNorm3d: SharedBatchNorm3d,
}


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters of its own and trains none of them."""
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def share_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Put batch norms over the joined batch in the place of every one that is trained; parameters stay the same ones.

    On GPUs these are torch's SyncBatchNorm, which works there only.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        setattr(module, name, share_batch_norms(child, device))
    if not isinstance(module, _BatchNorm) or type(module) not in SHARED or is_frozen(module):
        return module
    shared = SHARED[type(module)](
        module.num_features,
        eps=module.eps,
        momentum=module.momentum,
        affine=module.affine,
        track_running_stats=module.track_running_stats,
    )
    if module.affine:
        shared.weight, shared.bias = module.weight, module.bias
    shared.running_mean, shared.running_var = module.running_mean, module.running_var
    shared.num_batches_tracked = module.num_batches_tracked
    return shared.train(module.training)
