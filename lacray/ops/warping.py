"""Dynamic time warping with a differentiable minimum: soft-DTW and smooth DTW, one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from lacray.ops import reference
from lacray.ops.arguments import Lengths, check_band, check_gamma, check_lengths, check_table
from lacray.ops.backends import use_reference
from lacray.ops.registration import Operator


def soft_dtw(
    cost: Tensor,
    *,
    gamma: float,
    lengths: Lengths | None = None,
    band: int | None = None,
    normalize: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-DTW: the log-partition over all warping paths, of any length.

    R[i,j] = C[i,j] + min^gamma(R[i-1,j-1], R[i-1,j], R[i,j-1]), where min^gamma(u) = -gamma log sum exp(-u / gamma).

    Args:
        cost: (B, N, M) float; smaller is more alike, inf forbids a cell. Half precision is computed in float32.
        gamma: > 0, in units of cost; towards 0 it is the hard minimum.
        lengths: (B, 2) integers, real frames of each pair, as for `soft_sw`. Cells beyond get inf and gradient 0.
        band: cells with |i - j| > band are forbidden (Sakoe-Chiba); None forbids none. Time goes with the band.
        normalize: (cost_xx (B, N, N), cost_yy (B, M, M)), the costs of each sequence with itself: the value becomes
            the debiased divergence soft_dtw(xy) - (soft_dtw(xx) + soft_dtw(yy)) / 2, which is 0 for equal sequences
            and not negative for costs such as the squared distance. Without it the value is below the hard one, and
            may be negative.

    Returns:
        value (B,): R of the last cell, inf where no path exists; table (B, N, M): R. Both differentiable in cost (the
        value in all three, with `normalize`) and free to be changed in place, as `soft_sw`'s; float64 if cost is, else
        float32. Gradients that arrive at cells that are inf are ignored.

    Raises:
        ValueError: names the argument, what it must be, and what it was.

    Source: Cuturi and Blondel 2017 (arXiv 1703.01541); the divergence: Blondel, Mensch and Vert 2021 (2010.08354).
    """
    value, table = _warp(cost, gamma, lengths, band, smooth=False)
    if normalize is None:
        return value, table
    sizes = check_lengths(lengths, "cost", cost)
    if not isinstance(normalize, (tuple, list)) or len(normalize) != 2:
        raise ValueError(f"normalize: must be None or (cost_xx, cost_yy), got {type(normalize).__name__}")
    for axis, (name, own) in enumerate(zip(("cost_xx", "cost_yy"), normalize, strict=True)):
        own = check_table(f"normalize: {name}", own)
        expected = (len(cost), cost.shape[1 + axis], cost.shape[1 + axis])
        if tuple(own.shape) != expected:
            raise ValueError(f"normalize: {name} must have shape {expected}, got {tuple(own.shape)}")
        own_lengths = None if sizes is None else sizes[:, axis : axis + 1].expand(-1, 2)
        value = value - _warp(own, gamma, own_lengths, band, smooth=False)[0] / 2
    return value, table


def smooth_dtw(
    cost: Tensor, *, gamma: float, lengths: Lengths | None = None, band: int | None = None
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
    cost: Tensor, gamma: float, lengths: Lengths | None, band: int | None, *, smooth: bool
) -> tuple[Tensor, Tensor]:
    cost = check_table("cost", cost)
    gamma = check_gamma(gamma)
    sizes = check_lengths(lengths, "cost", cost)
    limit = check_band(band)
    if use_reference(cost.device.type):
        return reference.dtw(cost, gamma=gamma, lengths=sizes, band=limit, smooth=smooth)
    return _dtw(cost, sizes, gamma, limit, smooth, _with_gradient(cost))


def _with_gradient(cost: Tensor) -> bool:
    """Whether the forward pass is to give the value's gradient in the cost as well, for backward to scale.

    Where a pair's derivatives stay in a core's cache, that takes a fifth to a third off both passes; it is in vain
    where only the table is differentiated.
    """
    _, N, M = cost.shape
    fits = N * M * cost.element_size() <= 1 << 18
    return torch.is_grad_enabled() and cost.requires_grad and cost.device.type == "cpu" and fits


def _in_torch(
    cost: Tensor, lengths: Tensor | None, gamma: float, band: int, smooth: bool, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    return reference.dtw(cost, gamma=gamma, lengths=lengths, band=band, smooth=smooth)


_dtw = Operator(
    "dtw",
    ("cost",),
    "float gamma, int band, bool smooth, bool with_gradient",
    in_torch=_in_torch,
    num_arrays=lambda gamma, band, smooth, with_gradient: 1 if smooth else 2,
    ahead=True,
)
