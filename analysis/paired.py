"""Are two settings different? Runs with the same seed in pairs, and an exact test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# All sign patterns are gone through up to so many pairs; beyond, as many drawn ones as 16 pairs have.
MAX_EXACT_PAIRS = 16


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
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
    else:
        patterns = np.random.default_rng(0).integers(0, 2, (2**MAX_EXACT_PAIRS, len(values)))
        patterns[0] = 1  # the one that was seen is one of all
    sums = np.abs((2 * patterns - 1) @ values)
    # Of equal sums some are rounded below: by parts of what is added up, which may be far more than the sum.
    return float(np.mean(sums >= abs(values.sum()) - 1e-9 * np.abs(values).sum()))


def smallest_p(num_pairs: int) -> float:
    """The p of the clearest outcome, all differences of one sign: 2 of the 2^n patterns."""
    return 2.0 ** (1 - min(num_pairs, MAX_EXACT_PAIRS))
