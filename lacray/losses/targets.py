"""Gaussian targets over frames, in log space."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_log_targets(
    steps_from: Tensor, steps_to: Tensor, *, sigma: float, mask_to: Tensor, time_ratio: Tensor | None = None
) -> Tensor:
    """Log of the target distribution over the other clip's frames.

    log y_ij = log softmax_j(-(r s_i - s_j)^2 / (2 sigma^2)). The logarithm is never of an underflowed number: a frame
    whose counterpart lies far outside the other clip still has a target, on the nearest frames there.

    Args:
        steps_from: (B, N) frame indices in the one video.
        steps_to: (B, M) frame indices in the other.
        sigma: > 0, frames.
        mask_to: (B, M) bool, True = real frame; the others get probability 0.
        time_ratio: (B,) r, length of the other video over that of the one; None is 1.

    Returns:
        (B, N, M) log-probabilities, -inf where `mask_to` is False.

    Source: LAC paper, Eq. 7; methods of CARL (arXiv 2203.14957), Eq. 3.
    """
    one, other = steps_from.to(sigma_dtype(steps_from)), steps_to.to(sigma_dtype(steps_to))
    if time_ratio is not None:
        one = one * time_ratio[:, None].to(one.dtype)
    energy = -((one[:, :, None] - other[:, None, :]) ** 2) / (2 * sigma**2)
    return torch.log_softmax(energy.masked_fill(~mask_to[:, None, :], -torch.inf), dim=-1)


def sigma_dtype(steps: Tensor) -> torch.dtype:
    # Squared frame distances are exact in float32 up to 4096 frames; float64 inputs stay float64 for parity tests.
    return steps.dtype if steps.is_floating_point() else torch.float32
