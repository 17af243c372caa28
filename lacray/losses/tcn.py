"""Time-contrastive networks on single videos: neighbours in time are alike, frames further away are not."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lacray.config import TcnConfig
from lacray.losses.clips import Clips
from lacray.losses.loss import Loss
from lacray.losses.parts import draws_of, squared_distances


class TcnLoss(Loss[TcnConfig]):
    """n-pairs or triplets within each clip, averaged over the clips.

    Source: TCN (arXiv 1704.06888); n-pairs: Sohn 2016; triplets: as the LAC release has them.
    """

    def __init__(self, config: TcnConfig) -> None:
        super().__init__(config)
        self.couples_pairs = config.objective == "triplet"

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        embeddings = F.normalize(clips.embeddings, dim=-1) if config.normalize else clips.embeddings
        if config.objective == "triplet":
            loss = triplet(embeddings, clips, config)
            return loss, {"total": loss.detach()}
        contrast, norms = npairs(embeddings, clips.lengths, query=config.query)
        loss = (contrast + config.regularization / 4 * norms).mean()
        return loss, {"npairs": contrast.mean().detach(), "norms": norms.mean().detach(), "total": loss.detach()}


def npairs(
    embeddings: Tensor, lengths: Tensor, *, query: Literal["anchor", "positive"] = "anchor"
) -> tuple[Tensor, Tensor]:
    """n-pairs of clips whose frames are anchor, positive, anchor, positive, ...

    Args:
        embeddings: (S, T, E), zeros in the padding.
        lengths: (S,), frames; an odd one at the end counts for nothing.
        query: whose partner is found: each anchor's among all positives of its clip, or each positive's among all
            anchors.

    Returns:
        Cross-entropy of the partner, mean over the queries, (S,), and the mean squared norms of anchors and positives,
        added, (S,).
    """
    num = embeddings.shape[1] // 2
    anchors, positives = embeddings[:, 0 : 2 * num : 2], embeddings[:, 1 : 2 * num : 2]
    counts = (lengths // 2).clamp_min(1)
    mask = torch.arange(num, device=embeddings.device) < (lengths // 2)[:, None]
    # Each row has its own positive, so that no row is all -inf; rows of the padding are dropped below.
    seen = mask[:, None, :] | torch.eye(num, dtype=torch.bool, device=embeddings.device)
    asking, asked = (anchors, positives) if query == "anchor" else (positives, anchors)
    logits = (asking @ asked.mT).masked_fill(~seen, -torch.inf)
    own = -torch.log_softmax(logits, dim=-1).diagonal(dim1=1, dim2=2)
    norms = anchors.square().sum(-1) + positives.square().sum(-1)
    return own.masked_fill(~mask, 0).sum(1) / counts, norms.masked_fill(~mask, 0).sum(1) / counts


def triplet(embeddings: Tensor, clips: Clips, config: TcnConfig) -> Tensor:
    """relu(d(anchor, positive) - d(anchor, negative) + margin), mean over the frames that have both.

    Positive and negative of each frame are drawn from its clip, from the batch's own seed.
    """
    mask = clips.mask
    apart = (clips.steps[:, :, None] - clips.steps[:, None, :]).abs()
    cells = mask[:, :, None] & mask[:, None, :]
    near = cells & (apart > 0) & (apart <= config.positive_window)
    far = cells & (apart > config.negative_window)
    has_both = near.any(-1) & far.any(-1)
    generator = draws_of(clips)

    def drawn(choices: Tensor) -> Tensor:
        scores = torch.rand(choices.shape, generator=generator).to(choices.device)
        return scores.masked_fill(~choices, -1).argmax(-1, keepdim=True)

    # The root's slope at 0 is infinite; 1e-12 keeps it finite and moves distances below 1e-6 only.
    distances = (squared_distances(embeddings, embeddings) + 1e-12).sqrt()
    positive, negative = (distances.gather(2, drawn(choices))[..., 0] for choices in (near, far))
    losses = F.relu(positive - negative + config.margin).masked_fill(~has_both, 0)
    return losses.sum() / has_both.sum().clamp_min(1)
