"""Pure functions that losses share: similarities, softmax and cross-entropy over real frames, targets."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lacray.losses.clips import Clips


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Squared Euclidean distance of every frame of the one clip to every frame of the other.

    Args:
        one, other: (..., N, E), (..., M, E).

    Returns:
        (..., N, M), not negative.
    """
    product = one @ other.mT
    return (one.square().sum(-1)[..., :, None] + other.square().sum(-1)[..., None, :] - 2 * product).clamp_min(0)


def similarity(one: Tensor, other: Tensor, *, kind: str, eps: float) -> Tensor:
    """Similarity of every frame of the one clip with every frame of the other; larger is more alike.

    Args:
        one, other: (B, N, E), (B, M, E).
        kind: inverse_squared 1/(d^2 + eps), inverse 1/(d + eps), negative_squared -d^2, cosine, or rbf exp(-d^2/2).

    Returns:
        (B, N, M).
    """
    if kind == "cosine":
        return F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).mT
    squared = squared_distances(one, other)
    if kind == "negative_squared":
        return -squared
    if kind == "rbf":
        return torch.exp(-squared / 2)
    if kind == "inverse":
        # The distance's slope is infinite at 0; 1e-12 keeps it finite and moves distances below 1e-6 only.
        return 1 / ((squared + 1e-12).sqrt() + eps)
    return 1 / (squared + eps)


def masked_softmax(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Softmax over the real columns of each real row, (B, N, M); 0 elsewhere."""
    cells = rows[:, :, None] & columns[:, None, :]
    # Rows without a real cell would be softmax of all -inf, NaN in the gradient; they are softmax of zeros instead.
    logits = logits.masked_fill(~cells & rows[:, :, None], -torch.inf).masked_fill(~rows[:, :, None], 0.0)
    return torch.softmax(logits, dim=-1).masked_fill(~cells, 0.0)


def masked_log_softmax(logits: Tensor, columns: Tensor) -> Tensor:
    """Logarithm of the softmax over the real columns of every row, (B, N, M); 0 in the other columns."""
    is_padding = ~columns[:, None, :]
    return torch.log_softmax(logits.masked_fill(is_padding, -torch.inf), dim=-1).masked_fill(is_padding, 0.0)


def masked_cross_entropy(
    logits: Tensor, log_targets: Tensor, rows: Tensor, columns: Tensor, *, kl: bool = False, eps: float = 0.0
) -> Tensor:
    """Cross-entropy of softmax_j(logits) with target distributions, mean over the real rows.

    Args:
        logits, log_targets: (B, N, M).
        rows, columns: (B, N), (B, M) bool, True = real frame.
        kl: subtract the targets' entropy: another value, the same gradient.
        eps: added to the probabilities before the logarithm.

    Returns:
        (B,).
    """
    log_probabilities = masked_log_softmax(logits, columns)
    if eps > 0:
        log_probabilities = (log_probabilities.exp() + eps).log()
    cells = rows[:, :, None] & columns[:, None, :]
    targets = log_targets.exp()
    # 0 log 0 = 0: outside the mask, and where a target underflows beside others that do not.
    terms = -targets * log_probabilities.masked_fill(~cells, 0.0)
    if kl:
        terms = terms + targets * log_targets.masked_fill(~cells, 0.0)
    return terms.masked_fill(~cells, 0.0).sum(dim=(1, 2)) / rows.sum(1)


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
    # Squared frame distances are exact in float32 up to 4096 frames; float64 inputs stay float64 for parity tests.
    dtype = steps_from.dtype if steps_from.is_floating_point() else torch.float32
    one, other = steps_from.to(dtype), steps_to.to(dtype)
    if time_ratio is not None:
        one = one * time_ratio[:, None].to(dtype)
    energy = -((one[:, :, None] - other[:, None, :]) ** 2) / (2 * sigma**2)
    return torch.log_softmax(energy.masked_fill(~mask_to[:, None, :], -torch.inf), dim=-1)


def contrastive_idm(
    squared: Tensor,
    steps: Tensor,
    lengths: Tensor,
    mask: Tensor,
    *,
    margin: float,
    sigma: float,
    weights: Literal["release", "paper"] = "release",
) -> Tensor:
    """C-IDM: frames of one clip that are close in time are pulled together, the others pushed apart to the margin.

    release: sum over i, j of d_ij where |s_i - s_j| <= sigma, and (1 + ((s_i - s_j) / L)^2) relu(margin - d_ij)
    elsewhere. As in LAV's release both sides of the comparison are over L, so frames exactly sigma apart are either, as
    these round.

    paper: d_ij / w_ij and w_ij relu(margin - d_ij), with w_ij = 1 + (s_i - s_j)^2; frames exactly sigma apart are
    pulled.

    Args:
        squared: (B, T, T) squared distances of a clip's frames.
        steps: (B, T) frame indices.
        lengths: (B,) L, frames of each whole video.
        mask: (B, T) bool, True = real frame.
        margin: of squared distance.
        sigma: frames.
        weights: release or paper.

    Returns:
        (B,).

    Source: LAV (arXiv 2103.17260), Eq. 7, and its release.
    """
    sizes = lengths.to(squared.dtype) if weights == "release" else torch.ones_like(lengths, dtype=squared.dtype)
    places = steps / sizes[:, None]
    apart = (places[:, :, None] - places[:, None, :]).abs()
    near = apart <= sigma / sizes[:, None, None]
    weight = 1 + apart.square()
    pull = squared if weights == "release" else squared / weight
    terms = torch.where(near, pull, weight * F.relu(margin - squared))
    return terms.masked_fill(~(mask[:, :, None] & mask[:, None, :]), 0).sum(dim=(1, 2))


def draws_of(clips: Clips) -> torch.Generator:
    """A generator seeded by the batch: the same draws on every rank and after a resume, others at every step."""
    seed = 0
    for number in clips.steps.flatten().tolist():
        seed = (seed * 1_000_003 + number + 1) % (2**63 - 1)
    return torch.Generator().manual_seed(seed)
