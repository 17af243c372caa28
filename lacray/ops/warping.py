"""Dynamic time warping with a differentiable minimum: soft-DTW and smooth DTW, one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lacray.ops import reference
from lacray.ops.arguments import check_band, check_gamma, check_lengths, check_table
from lacray.ops.backends import select, use_reference
from lacray.ops.registration import LIBRARY, define, differentiable, reference_gradients, second_derivatives, state_size


def soft_dtw(
    cost: Tensor,
    *,
    gamma: float,
    lengths: Tensor | None = None,
    band: int | None = None,
    normalize: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-DTW: the log-partition over all warping paths, of any length.

    R[i,j] = C[i,j] + min^gamma(R[i-1,j-1], R[i-1,j], R[i,j-1]), where min^gamma(u) = -gamma log sum exp(-u / gamma).

    Args:
        cost: (B, N, M) float; smaller is more alike, inf forbids a cell. Half precision is computed in float32.
        gamma: > 0, in units of cost; towards 0 it is the hard minimum.
        lengths: (B, 2) int64, real frames of each pair, as for `soft_sw`. Cells beyond get inf and gradient 0.
        band: cells with |i - j| > band are forbidden (Sakoe-Chiba); None forbids none. Time goes with the band.
        normalize: (cost_xx (B, N, N), cost_yy (B, M, M)), the costs of each sequence with itself: the value becomes
            the debiased divergence soft_dtw(xy) - (soft_dtw(xx) + soft_dtw(yy)) / 2, which is 0 for equal sequences
            and not negative for costs such as the squared distance. Without it the value is below the hard one, and
            may be negative.

    Returns:
        value (B,): R of the last cell, inf where no path exists; table (B, N, M): R. Both differentiable in cost (the
        value in all three, with `normalize`); float64 if cost is, else float32. Gradients that arrive at cells
        that are inf are ignored.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: Cuturi and Blondel 2017 (arXiv 1703.01541); the divergence: Blondel, Mensch and Vert 2021 (2010.08354).
    """
    value, table = _warp(cost, gamma, lengths, band, smooth=False)
    if normalize is None:
        return value, table
    if not isinstance(normalize, (tuple, list)) or len(normalize) != 2:
        raise ValueError(f"normalize: must be None or (cost_xx, cost_yy), got {type(normalize).__name__}")
    for axis, (name, own) in enumerate(zip(("cost_xx", "cost_yy"), normalize, strict=True)):
        own = check_table(f"normalize: {name}", own)
        expected = (len(cost), cost.shape[1 + axis], cost.shape[1 + axis])
        if tuple(own.shape) != expected:
            raise ValueError(f"normalize: {name} must have shape {expected}, got {tuple(own.shape)}")
        own_lengths = None if lengths is None else lengths[:, axis : axis + 1].expand(-1, 2)
        value = value - _warp(own, gamma, own_lengths, band, smooth=False)[0] / 2
    return value, table


def smooth_dtw(
    cost: Tensor, *, gamma: float, lengths: Tensor | None = None, band: int | None = None
) -> tuple[Tensor, Tensor]:
    """Smooth DTW, with the minimum that GTA uses: the mean of u weighted by softmax(-u / gamma).

    R[i,j] = C[i,j] + smooth(R[i-1,j-1], R[i-1,j], R[i,j-1]). It lies above the hard minimum, `soft_dtw` below.

    Args:
        cost, gamma, lengths, band: as for `soft_dtw`.

    Returns:
        value (B,) and table (B, N, M), as `soft_dtw`. Its gradient is not a probability: it may be negative.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: Hadji, Derpanis and Jepson 2021 (arXiv 2105.05217), Eq. 3 and 4.
    """
    return _warp(cost, gamma, lengths, band, smooth=True)


def _warp(
    cost: Tensor, gamma: float, lengths: Tensor | None, band: int | None, *, smooth: bool
) -> tuple[Tensor, Tensor]:
    cost = check_table("cost", cost)
    gamma = check_gamma(gamma)
    check_lengths(lengths, "cost", cost)
    limit = check_band(band)
    if use_reference(cost.device.type):
        return reference.dtw(cost, gamma=gamma, lengths=lengths, band=limit, smooth=smooth)
    value, table, *_ = _dtw(cost, lengths, gamma, limit, smooth, _with_gradient(cost))
    return value, table


def _with_gradient(cost: Tensor) -> bool:
    """Whether the forward pass is to give the value's gradient in the cost as well, for backward to scale.

    Where a pair's derivatives stay in a core's cache, that takes a fifth to a third off both passes; it is in vain
    where only the table is differentiated.
    """
    _, N, M = cost.shape
    fits = N * M * cost.element_size() <= 1 << 18
    return torch.is_grad_enabled() and cost.requires_grad and cost.device.type == "cpu" and fits


define(
    "dtw(Tensor cost, Tensor? lengths, float gamma, int band, bool smooth, bool with_gradient) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
define(
    "dtw_backward(Tensor? grad_value, Tensor? grad_table, Tensor cost, Tensor? lengths, Tensor table, Tensor state, "
    "Tensor gradient, float gamma, int band, bool smooth) -> Tensor"
)


def _arrays(smooth: bool) -> int:  # csrc/calls.h
    return 1 if smooth else 2


@torch.library.register_fake("lacray::dtw", lib=LIBRARY)
def _fake(
    cost: Tensor, lengths: Tensor | None, gamma: float, band: int, smooth: bool, with_gradient: bool
) -> tuple[Tensor, ...]:
    B, N, M = cost.shape
    state = cost.new_empty(B, state_size(cost, _arrays(smooth)))
    return cost.new_empty(B), cost.new_empty(B, N, M), state, cost.new_empty((B, N, M) if with_gradient else (0,))


@torch.library.register_fake("lacray::dtw_backward", lib=LIBRARY)
def _fake_backward(
    grad_value: Tensor | None,
    grad_table: Tensor | None,
    cost: Tensor,
    lengths: Tensor | None,
    table: Tensor,
    state: Tensor,
    gradient: Tensor,
    gamma: float,
    band: int,
    smooth: bool,
) -> Tensor:
    return cost.new_empty(cost.shape)


# As for soft_sw: until a library is loaded, and where there is none, these run.
@torch.library.impl("lacray::dtw", "CompositeExplicitAutograd", lib=LIBRARY)
def _first_call(
    cost: Tensor, lengths: Tensor | None, gamma: float, band: int, smooth: bool, with_gradient: bool
) -> tuple[Tensor, ...]:
    if select(cost.device.type) != "reference":
        result: tuple[Tensor, ...] = torch.ops.lacray.dtw(cost, lengths, gamma, band, smooth, with_gradient)
        return result
    value, table = reference.dtw(cost, gamma=gamma, lengths=lengths, band=band, smooth=smooth)
    gradient = cost.new_empty(0)
    if with_gradient:
        compute = _in_torch(lengths, gamma, band, smooth)
        (gradient,) = reference_gradients(compute, [cost], (torch.ones_like(value), None))
    return value, table.clone(), cost.new_zeros(len(cost), state_size(cost, _arrays(smooth))), gradient


@torch.library.impl("lacray::dtw_backward", "CompositeExplicitAutograd", lib=LIBRARY)
def _first_backward_call(
    grad_value: Tensor | None,
    grad_table: Tensor | None,
    cost: Tensor,
    lengths: Tensor | None,
    table: Tensor,
    state: Tensor,
    gradient: Tensor,
    gamma: float,
    band: int,
    smooth: bool,
) -> Tensor:
    if select(cost.device.type) != "reference":
        result: Tensor = torch.ops.lacray.dtw_backward(
            grad_value, grad_table, cost, lengths, table, state, gradient, gamma, band, smooth
        )
        return result

    compute = _in_torch(lengths, gamma, band, smooth)
    return reference_gradients(compute, [cost], (grad_value, grad_table))[0]


def _in_torch(
    lengths: Tensor | None, gamma: float, band: int, smooth: bool
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The reference as a function of the cost."""

    def compute(cost: Tensor) -> tuple[Tensor, Tensor]:
        return reference.dtw(cost, gamma=gamma, lengths=lengths, band=band, smooth=smooth)

    return compute


def _set_up(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    cost, lengths, *ctx.settings, _ = inputs
    ctx.save_for_backward(cost, lengths, *output[1:])
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])


def _backward(
    ctx: Any, grad_value: Tensor | None, grad_table: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    nothing = [None] * 5
    if grad_value is None and grad_table is None:
        return None, *nothing
    return torch.ops.lacray.dtw_backward(grad_value, grad_table, *ctx.saved_tensors, *ctx.settings), *nothing


def _set_up_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, _, _, ctx.gamma, ctx.band, ctx.smooth = inputs
    ctx.save_for_backward(*tensors)


def _backward_of_backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
    grad_value, grad_table, cost, lengths = ctx.saved_tensors
    compute = _in_torch(lengths, ctx.gamma, ctx.band, ctx.smooth)
    found = second_derivatives(compute, [cost], (grad_value, grad_table), [given])
    return (*found, *[None] * 7)


_dtw = differentiable("dtw", _set_up, _backward)
torch.library.register_autograd(
    "lacray::dtw_backward", _backward_of_backward, setup_context=_set_up_backward, lib=LIBRARY
)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("lacray::dtw", _device, torch.float32, lib=LIBRARY)
