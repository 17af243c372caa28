"""Sequences without any encoder: videos of one process, their moments in another order, and what has none."""

from __future__ import annotations

import numpy as np
import torch

NUM_PHASES, SIZE = 6, 16
CENTRES = np.random.default_rng(42).normal(size=(NUM_PHASES, SIZE))


def process(rng: np.random.Generator, *, order=None, shortest: int = 8, longest: int = 25) -> torch.Tensor:
    """Codes (T, SIZE) that pass through the phases, slowly wandering about each one's centre."""
    order = range(NUM_PHASES) if order is None else order
    pieces = []
    for phase in order:
        length = int(rng.integers(shortest, longest))
        wandering = np.zeros((length, SIZE))
        state = rng.normal(size=SIZE)
        for row in wandering:
            state = 0.8 * state + 0.6 * rng.normal(size=SIZE)
            row[:] = CENTRES[phase] + 0.7 * state
        pieces.append(wandering)
    return torch.from_numpy(np.concatenate(pieces).astype(np.float32))


def as_they_are(codes: torch.Tensor) -> np.ndarray:
    """An encoder that does nothing."""
    return codes.numpy()


def in_eight_pieces(codes: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The moments of a video in another order; written without a look at lacray's own."""
    rows = list(codes)
    edges = [0, *sorted(rng.permutation(len(rows) - 1)[:7] + 1), len(rows)]
    pieces = [rows[edges[n] : edges[n + 1]] for n in range(8)]
    pieces = [piece if rng.integers(2) else piece[::-1] for piece in pieces]
    rng.shuffle(pieces)
    return torch.stack([row for piece in pieces for row in piece])
