"""Log-odds of a true match against chance, found on videos without any labels.

As substitution matrices are made: c(s) = log(q(s) / p(s)), where p is how often two frames of two videos are s alike,
and q how often those are that an alignment matches. A pair of frames at random scores below zero on average, by
minus the Kullback-Leibler divergence of q from p, which local alignment needs. Which frames match is not known, so q
is found by expectation maximisation: the probabilities of all matches by c (the E step), the similarities that they
weigh (the M step), beginning with the warping path from end to end. c rises with s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

from lacray.ops import dtw_path, soft_sw

LEAST_EXTEND = 0.01
"""Nats; gaps of any length for nothing would leave no probability to matches."""
MOST_ROUNDS = 40
LEAST_GAIN = 1e-3
"""Of the log-likelihood, as a share of it, below which the rounds end."""
PRIOR = 20.0
"""Matches by chance that are added to those found, so that similarities that are rarely seen say little."""
LEVELS = np.concatenate([np.linspace(0, 0.9, 25)[:-1], 1 - 0.1 * 0.75 ** np.arange(25), [1.0]])
"""Quantiles of similarity at chance between which c is constant; finer where matches are."""


@dataclass(frozen=True)
class Penalties:
    """What a gap costs, and how far from the best alignment others count; all in nats, as calibrated similarities."""

    gap_open: float = 2.0
    """When a gap starts."""
    gap_extend: float = 0.5
    """For each further frame of it."""
    gamma: float = 1.0
    """1: the probability of a match is that of a pair hidden Markov model whose emissions are the calibration's."""

    @property
    def going_on(self) -> float:
        """What every match costs, so that the ways to the next one, past a gap of any length on either side, sum to 1.

        Without it an alignment of frames that have nothing in common would go on for the number of ways alone, however
        little each of them is worth: that is how a pair hidden Markov model differs from bare penalties.

        Source: Durbin et al. 1998, Biological sequence analysis, section 4.1.
        """
        opened, extended = (math.exp(-gap / self.gamma) for gap in (self.gap_open, max(self.gap_extend, LEAST_EXTEND)))
        return 2 * self.gamma * math.log1p(opened / (1 - extended))


@dataclass(frozen=True)
class Odds:
    """The log-odds of a match by similarity, in nats: linear between those that were found, constant beyond."""

    similarities: tuple[float, ...]
    """Rising, K."""
    log_odds: tuple[float, ...]
    """At each, not falling."""

    def __call__(self, similarity: Tensor) -> Tensor:
        """(...,) -> (...,), differentiable in the similarity."""
        places, values = (similarity.new_tensor(own) for own in (self.similarities, self.log_odds))
        if len(places) == 1:
            return values.expand_as(similarity)
        right = torch.searchsorted(places, similarity.detach().contiguous()).clamp(1, len(places) - 1)
        low, high = places[right - 1], places[right]
        # Two that are one in this precision are a step.
        share = ((similarity - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        return values[right - 1] + share * (values[right] - values[right - 1])


def log_odds(tables: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Similarities and the log-odds of a match at each, and in how many rounds they were found."""
    everything = np.concatenate([table.ravel() for table in tables])
    edges = np.unique(np.quantile(everything, LEVELS))[1:-1]
    bins = [np.searchsorted(edges, table, side="right") for table in tables]
    counts = np.bincount(np.concatenate([own.ravel() for own in bins]), minlength=len(edges) + 1).astype(np.float64)
    sums = np.bincount(
        np.searchsorted(edges, everything, side="right"), weights=everything.astype(np.float64), minlength=len(counts)
    )
    held = np.flatnonzero(counts)
    place = np.zeros(len(counts), dtype=np.int64)
    place[held] = np.arange(len(held))
    bins, counts, centres = [place[own] for own in bins], counts[held], sums[held] / counts[held]
    by_chance = counts / counts.sum()
    found = np.zeros(len(held))
    for own in bins:
        # What stands highest in the table is nearest: only the order of similarities counts here.
        cost = 1 - np.cumsum(by_chance)[own]
        _, path = dtw_path(torch.from_numpy(cost)[None])
        on_path = path[0][path[0][:, 0] >= 0].numpy()
        found += np.bincount(own[on_path[:, 0], on_path[:, 1]], minlength=len(held))
    likelihood = -np.inf
    rounds = 0
    penalties = Penalties()
    while True:
        rising = _rising_log_odds(found, by_chance)
        if rounds == MOST_ROUNDS:
            break
        total, found = 0.0, np.zeros(len(held))
        for own in bins:
            score, matched = probabilities(rising[own].astype(np.float32), penalties)
            total += score
            found += np.bincount(own.ravel(), weights=matched.ravel().astype(np.float64), minlength=len(held))
        rounds += 1
        if total - likelihood < LEAST_GAIN * abs(total):
            break
        likelihood = total
    return centres, rising, rounds


def _rising_log_odds(found: NDArray[np.float64], by_chance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most likely log-odds that do not fall, from how often each similarity was matched.

    Source: isotonic regression of the ratio, Dykstra, Kochar and Robertson 1995.
    """
    matched = (found + PRIOR * by_chance) / (found.sum() + PRIOR)
    ratio = isotonic_regression(matched / by_chance, weights=by_chance).x
    return np.log(ratio / (ratio * by_chance).sum())


def probabilities(log_odds: NDArray[np.float32], penalties: Penalties) -> tuple[float, NDArray[np.float32]]:
    """The log-partition over all local alignments of a table (N, M), in nats, and the probability of every match."""
    table = worth(log_odds, penalties).requires_grad_()
    with torch.enable_grad():
        score, _ = soft_sw(table, penalties.gap_open, penalties.gap_extend, gamma=penalties.gamma)
        (matched,) = torch.autograd.grad(score.sum(), table)
    return float(score.detach()), matched[0].numpy()


def worth(log_odds: NDArray[np.float32], penalties: Penalties) -> Tensor:
    """What a match of each cell adds, (1, N, M)."""
    return torch.from_numpy(log_odds - np.float32(penalties.going_on))[None]
