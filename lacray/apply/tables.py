"""Alignment of one table of calibrated similarities: its best path, the probability of every match, hard scores."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lacray.apply.scoring import Penalties
from lacray.ops import smith_waterman, soft_sw

HARD = 1e-3
"""gamma, in nats, at which the smoothed score is the best alignment's to a thousandth of the log of their number."""


def probabilities(log_odds: NDArray[np.float32], penalties: Penalties) -> tuple[float, NDArray[np.float32]]:
    """The log-partition over all local alignments of a table (N, M), in nats, and the probability of every match."""
    table = _worth(log_odds, penalties).requires_grad_()
    with torch.enable_grad():
        score, _ = soft_sw(table, penalties.gap_open, penalties.gap_extend, gamma=penalties.gamma)
        (matched,) = torch.autograd.grad(score.sum(), table)
    return float(score.detach()), matched[0].numpy()


def best_path(log_odds: NDArray[np.float32], penalties: Penalties) -> tuple[float, NDArray[np.int64]]:
    """The best local alignment of a table (N, M): its score in nats and its matches (L, 2), in order.

    No match at all where none is better than chance.
    """
    score, path = smith_waterman(_worth(log_odds, penalties), penalties.gap_open, penalties.gap_extend)
    found = path[0].numpy()
    return float(score), found[found[:, 0] >= 0] if float(score) > 0 else found[:0]


@torch.no_grad()
def best_score(log_odds: NDArray[np.float32], penalties: Penalties) -> float:
    """The score of `best_path`, without the path: faster."""
    return float(soft_sw(_worth(log_odds, penalties), penalties.gap_open, penalties.gap_extend, gamma=HARD)[0])


def _worth(log_odds: NDArray[np.float32], penalties: Penalties) -> Tensor:
    """What a match of each cell adds, (1, N, M)."""
    return torch.from_numpy(log_odds - np.float32(penalties.going_on))[None]
