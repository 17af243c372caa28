"""LAV: learning by aligning videos in time, with soft-DTW, regularised by contrastive inverse difference moments."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lacray.config import LavConfig
from lacray.losses.clips import Clips
from lacray.losses.loss import Loss
from lacray.losses.parts import contrastive_idm, squared_distances
from lacray.ops import soft_dtw


class LavLoss(Loss[LavConfig]):
    """(soft-DTW(a, b) + alpha (C-IDM(a) + C-IDM(b))) over the clips' mean length, averaged over the pairs.

    Source: LAV (arXiv 2103.17260), Eq. 8.
    """

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        embeddings = F.normalize(clips.embeddings, dim=-1) if config.normalize else clips.embeddings
        own = squared_distances(embeddings, embeddings)
        idm = contrastive_idm(
            own,
            clips.steps,
            clips.video_lengths,
            clips.mask,
            margin=config.margin,
            sigma=config.sigma,
            weights=config.idm,
        )
        one, other = clips.pairs.T
        lengths = clips.lengths[clips.pairs]
        warping, _ = soft_dtw(
            squared_distances(embeddings[one], embeddings[other]),
            gamma=config.gamma,
            lengths=lengths,
            normalize=(own[one], own[other]) if config.debiased else None,
        )
        size = lengths.to(warping.dtype).mean(1)
        warping, moments = warping / size, (idm[one] + idm[other]) / size
        loss = (warping + config.alpha * moments).mean()
        return loss, {"dtw": warping.mean().detach(), "idm": moments.mean().detach(), "total": loss.detach()}
