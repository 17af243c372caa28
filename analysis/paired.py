"""Are two settings different? Runs with the same seed in pairs, and an exact test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# All sign patterns are gone through up to so many pairs; beyond, as many drawn ones as these have.
MAX_EXACT_PAIRS = 20


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired sign-flip (Fisher randomisation) test of a mean difference of 0.

    Under the hypothesis that the two settings do not differ, each pair's difference is as likely with the other sign;
    p is the share of all sign patterns whose mean is at least as far from 0 as the one that was seen. It assumes that
    pairs are independent and differences symmetric about 0, and no normal distribution.

    Args:
        differences: one a pair.

    Returns:
        None with fewer than two pairs.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return None
    if len(values) <= MAX_EXACT_PAIRS:
        # Of the first pair one sign is enough: the patterns with the other are these, mirrored.
        sums = values[:1]
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
    else:
        draws = np.random.default_rng(0)
        sums = np.concatenate(
            [values.sum(keepdims=True)]  # the one that was seen is one of all
            + [draws.choice([-1.0, 1.0], (2**11, len(values))) @ values for _ in range(2 ** (MAX_EXACT_PAIRS - 11))]
        )
    # Of equal sums some are rounded below: by parts of what is added up, which may be far more than the sum.
    return float(np.mean(np.abs(sums) >= abs(values.sum()) - 1e-9 * np.abs(values).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p of a family of tests, in its order: below a level where the family's error keeps to it.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    return adjusted.tolist()


def smallest_p(num_pairs: int) -> float:
    """The p of the clearest outcome, all differences of one sign: 2 of the 2^n patterns."""
    return 2.0 ** (1 - min(num_pairs, MAX_EXACT_PAIRS))
