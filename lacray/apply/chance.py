"""Significance: how often chance alone reaches the score of an alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

PIECES = 8
"""A video out of order is cut into so many pieces at random, which are shuffled, each forwards or backwards."""
MOST_GROWTH = 2.0
LEAST_DEVIATION = 1e-6
"""Of scores, in nats: all alike (an encoder that tells nothing apart), they are spread by rounding alone."""


@dataclass(frozen=True)
class Chance:
    """The distribution of the best local score of two videos without a common order: Gumbel's, of extreme values.

    P(score >= x) = 1 - exp(-exp(-rate (x / L^growth - location))), with L the geometric mean of both videos' frames.
    The best score of independent letters grows with the logarithm of their number (Karlin and Altschul); neighbouring
    frames are no such letters, and what moments have in common by chance lasts longer in a slower video.

    Source: Gumbel 1958; with fitted parameters, for alignments with gaps: Pearson 1998.
    """

    rate: float
    location: float
    growth: float
    num_pairs: int
    distance: float
    """Between this distribution and the scores that it was fitted to: Kolmogorov and Smirnov's, 0 to 1."""

    def p_value(self, score: float, num_a: int, num_b: int) -> float:
        """The probability that two videos of these numbers of frames reach a score without a common order."""
        height = self.rate * (score / (num_a * num_b) ** (self.growth / 2) - self.location)
        return float(-np.expm1(-np.exp(-np.clip(height, -700, 700))))


def fit_chance(scores: Sequence[float], sizes: Sequence[tuple[int, int]]) -> Chance:
    """The distribution that makes the scores of pairs without a common order most likely.

    Args:
        scores: of at least two pairs, in nats.
        sizes: the frames of both videos of each.
    """
    values = np.asarray(scores, dtype=np.float64)
    lengths = np.log(np.asarray(sizes, dtype=np.float64)).mean(axis=1)
    middle = lengths.mean()
    offsets = lengths - middle
    spread = max(float(values.std()), LEAST_DEVIATION)

    def surprise(parameters: NDArray[np.float64]) -> float:
        log_rate, location, growth = parameters
        z = np.exp(log_rate) * (values / spread * np.exp(-growth * offsets) - location)
        return float(-(log_rate - growth * offsets - z - np.exp(-np.clip(z, -50, None))).mean())

    # Gumbel's of that mean and deviation; then the best nearby.
    begin = np.array([np.log(np.pi / np.sqrt(6)), values.mean() / spread - 0.45, 1.0])
    bounds = [(-5.0, 20.0), (None, None), (0.0, MOST_GROWTH)]
    log_rate, location, growth = optimize.minimize(surprise, begin, method="L-BFGS-B", bounds=bounds).x
    unit = spread * np.exp(-growth * middle)
    found = Chance(float(np.exp(log_rate) / unit), float(location * unit), float(growth), len(values), 0.0)
    levels = [found.p_value(score, *size) for score, size in zip(values, sizes, strict=True)]
    return replace(found, distance=float(stats.kstest(levels, "uniform").statistic))


def out_of_order(num_frames: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The frames of a video in an order without meaning: in PIECES pieces at random, each forwards or backwards.

    Neighbours stay neighbours: frames shuffled one by one would lose what makes chance matches long.
    """
    cuts = np.sort(rng.choice(np.arange(1, num_frames), size=min(PIECES, num_frames) - 1, replace=False))
    pieces = np.split(np.arange(num_frames), cuts)
    turned = [piece[::-1] if rng.random() < 0.5 else piece for piece in pieces]
    return np.concatenate([turned[place] for place in rng.permutation(len(turned))])
