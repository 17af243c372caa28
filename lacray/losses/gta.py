"""GTA: global temporal alignment by a differentiable DTW on softmax costs, consistent there and back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lacray.config import GtaConfig
from lacray.losses.clips import Clips
from lacray.losses.loss import Loss
from lacray.losses.parts import masked_log_softmax, masked_softmax
from lacray.ops import smooth_dtw, soft_dtw


class GtaLoss(Loss[GtaConfig]):
    """Cross-entropy of the way there and back with staying where one is, plus the costs of both; mean over pairs.

    Source: GTA (arXiv 2105.05217), Eq. 1-9; which axes are normalised, as its release does it.
    """

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        embeddings = F.normalize(clips.embeddings, dim=-1) if config.normalize else clips.embeddings
        one, other = clips.pairs.T
        logits = embeddings[one] @ embeddings[other].mT / config.tau
        rows, columns = clips.mask[one], clips.mask[other]
        lengths = clips.lengths[clips.pairs]
        there, way = self._warp(logits, rows, columns, lengths)
        if not config.consistency:
            loss = there.mean()
            return loss, {"dtw": loss.detach(), "total": loss.detach()}
        back, way_back = self._warp(logits.mT, columns, rows, lengths.flip(1))
        cycle = self._cycle(way @ way_back, rows)
        loss = (cycle + config.dtw_weight * (there + back)).mean()
        return loss, {"cycle": cycle.mean().detach(), "dtw": (there + back).mean().detach(), "total": loss.detach()}

    def _warp(self, logits: Tensor, rows: Tensor, columns: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """DTW's value (P,), and its accumulated costs as probabilities over the frames of the first clip (P, N, M)."""
        cells = rows[:, :, None] & columns[:, None, :]
        # Both softmaxes are over the rows.
        cost = -masked_log_softmax(logits.mT, rows).mT.masked_fill(~cells, 0)
        warp = smooth_dtw if self.config.minimum == "smooth" else soft_dtw
        value, table = warp(cost, gamma=self.config.gamma, lengths=lengths)
        return value, masked_softmax(-table.mT, columns, rows).mT

    def _cycle(self, product: Tensor, rows: Tensor) -> Tensor:
        """Cross-entropy of softmax(product) over its first axis with the identity, labels smoothed: (P,)."""
        smoothing = self.config.label_smoothing
        log_probabilities = masked_log_softmax(product.mT, rows)
        count = rows.sum(1, keepdim=True)
        own = log_probabilities.diagonal(dim1=1, dim2=2)
        terms = -(1 - smoothing) * own - smoothing * log_probabilities.sum(-1) / count
        return terms.masked_fill(~rows, 0).sum(1) / count[:, 0]
