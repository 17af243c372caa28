"""Alignment of one table of calibrated similarities: its best path, and hard scores."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lacray.odds import Penalties, worth
from lacray.ops import smith_waterman, soft_sw

HARD = 1e-3
"""gamma, in nats, at which the smoothed score is the best alignment's to a thousandth of the log of their number."""


def best_path(log_odds: NDArray[np.float32], penalties: Penalties) -> tuple[float, NDArray[np.int64]]:
    """The best local alignment of a table (N, M): its score in nats and its matches (L, 2), in order.

    No match at all where none is better than chance.
    """
    score, path = smith_waterman(worth(log_odds, penalties), penalties.gap_open, penalties.gap_extend)
    found = path[0].numpy()
    return float(score), found[found[:, 0] >= 0] if float(score) > 0 else found[:0]


@torch.no_grad()
def best_score(log_odds: NDArray[np.float32], penalties: Penalties) -> float:
    """The score of `best_path`, without the path: faster."""
    return float(soft_sw(worth(log_odds, penalties), penalties.gap_open, penalties.gap_extend, gamma=HARD)[0])
