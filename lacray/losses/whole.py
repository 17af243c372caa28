"""What a loss sees of the training videos as a whole, beside the clips of a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lacray.odds import Odds


@dataclass(frozen=True)
class WholeVideos:
    """All training videos, each embedded whole, without gradient and without dropout, from every s-th frame.

    Attributes:
        embeddings: (n_v, E) of each, L2-normalised.
        odds: log-odds of a match by the cosine of two embeddings.
        strides: s of each.
        features: (n_v, C) of each, what a frozen backbone made of the same frames, L2-normalised; None for none.
        feature_odds: log-odds of a match by the cosine of two features.
    """

    embeddings: list[Tensor]
    odds: Odds
    strides: list[int]
    features: list[Tensor] | None = None
    feature_odds: Odds | None = None

    @torch.no_grad()
    def log_odds(self, one: int, other: int, *, evidence: str) -> Tensor:
        """How much better than by chance every two frames of two videos match, (N, M), in nats.

        Args:
            evidence: `encoder`, `features`, or `both`: the sum of what there is, as of two independent witnesses.
        """
        found = []
        if evidence != "features":
            found.append(self.odds(self.embeddings[one] @ self.embeddings[other].mT))
        if evidence != "encoder" and self.features is not None and self.feature_odds is not None:
            found.append(self.feature_odds(self.features[one] @ self.features[other].mT).to(self.embeddings[one].dtype))
        return torch.stack(found).sum(0)
