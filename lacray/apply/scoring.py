"""What two frames, and a gap, are worth to a model: the similarity and the penalties that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lacray.config import Config, LacConfig
from lacray.losses import Loss
from lacray.losses.lac import LacLoss
from lacray.losses.parts import similarity
from lacray.odds import Penalties

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Measure:
    """How alike two frames are, as the loss had it."""

    kind: str = "cosine"
    """As `lacray.losses.parts.similarity` names it."""
    eps: float = 0.0
    normalize: bool = True

    def __call__(self, one: Array, other: Array) -> NDArray[np.float32]:
        """Embeddings (N, E) and (M, E) -> similarity (N, M)."""
        codes = [torch.from_numpy(np.array(part, dtype=np.float32))[None] for part in (one, other)]
        if self.normalize:
            codes = [F.normalize(code, dim=-1) for code in codes]
        return similarity(*codes, kind=self.kind, eps=self.eps)[0].numpy()


def measure_of(config: Config) -> Measure:
    """The similarity that a model's alignments rest on: its loss's own, or the cosine where that has none."""
    loss = config.loss
    if isinstance(loss, LacConfig):
        return Measure(loss.similarity, loss.similarity_eps, loss.normalize)
    return Measure()


@torch.no_grad()
def penalties_of(loss: Loss, nats_per_similarity: float) -> Penalties:
    """The penalties that a loss was trained with or has learned, in nats; the defaults where it has none.

    A table of penalties by place in the clip (`loss.gap: position`) counts by its mean: clips are cut from anywhere in
    a video, so that a place in a clip is none in a video. A penalty that training made negative counts as 0.

    Args:
        nats_per_similarity: the slope of the calibration, since penalties are in units of similarity.
    """
    if not isinstance(loss, LacLoss) or nats_per_similarity <= 0:
        return Penalties()
    opening, extending = (max(float(gap.float().mean()), 0.0) for gap in loss.gap_penalties())
    return Penalties(
        opening * nats_per_similarity, extending * nats_per_similarity, loss.config.gamma * nats_per_similarity
    )
