"""SCL, the sequence contrastive loss of CARL: a frame's neighbours in time, in the other view, are its positives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lacray.config import SclConfig
from lacray.losses.clips import Clips
from lacray.losses.loss import Loss
from lacray.losses.parts import gaussian_log_targets

# Added to the probabilities before the logarithm.
EPS = 1e-6


class SclLoss(Loss[SclConfig]):
    """KL divergence of Gaussian targets from the softmax over the other clip's frames, both ways, mean over frames.

    Source: CARL (arXiv 2203.14957), Eq. 2-5.
    """

    couples_pairs = True

    def __init__(self, config: SclConfig, *, embedding: int) -> None:
        super().__init__(config)
        width, hidden = config.projection, config.projection_hidden or config.projection
        # Behind the encoder in training alone; what is evaluated is what goes into it.
        self.projection = (
            nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU(), nn.Linear(hidden, width)) if width else nn.Identity()
        )

    def parameter_groups(self) -> list[dict[str, object]]:
        groups = super().parameter_groups()
        rate = self.config.learning_rate
        return groups if rate is None else [{**group, "lr": rate} for group in groups]

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        own = list(self.parameters())
        return {"projection.norm": float(nn.utils.get_total_norm(own))} if own else {}

    def projected(self, embeddings: Tensor) -> Tensor:
        """What is compared: embeddings (..., E) behind the head, (..., width)."""
        embeddings = self.projection(embeddings)
        return F.normalize(embeddings, dim=-1) if self.config.normalize else embeddings

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        embeddings = self.projected(clips.embeddings)
        one, other = torch.cat([clips.pairs, clips.pairs.flip(1)]).T
        rows, columns = clips.mask[one], clips.mask[other]
        ratio = None
        if config.time_scale == "relative":
            sizes = clips.video_lengths.to(embeddings.dtype)
            ratio = sizes[other] / sizes[one]
        targets = gaussian_log_targets(
            clips.steps[one].to(embeddings.dtype),
            clips.steps[other].to(embeddings.dtype),
            sigma=config.sigma,
            mask_to=columns,
            time_ratio=ratio,
        )
        logits = embeddings[one] @ embeddings[other].mT / config.tau
        logits = logits.masked_fill(~columns[:, None, :], -torch.inf)
        others = self._negatives(embeddings, clips, one, other)
        total = torch.logsumexp(torch.cat([logits, others], dim=2), dim=2, keepdim=True)
        cells = rows[:, :, None] & columns[:, None, :]
        log_probabilities = (torch.exp(logits - total) + EPS).log().masked_fill(~cells, 0)
        weights = targets.exp().masked_fill(~cells, 0)
        terms = weights * (targets.masked_fill(~cells, 0) - log_probabilities)
        loss = terms.sum() / rows.sum()
        return loss, {"total": loss.detach()}

    def _negatives(self, embeddings: Tensor, clips: Clips, one: Tensor, other: Tensor) -> Tensor:
        """Logits (2P, T, more) of the frames in the softmax that are not the pair's other clip's."""
        config = self.config
        if config.negatives == "single_noself":
            return embeddings.new_zeros(len(one), embeddings.shape[1], 0)
        if config.negatives == "single":
            logits = embeddings[one] @ embeddings[one].mT / config.tau
            return logits.masked_fill(~clips.mask[one][:, None, :], -torch.inf)
        logits = torch.einsum("pte,sue->ptsu", embeddings[one], embeddings) / config.tau
        order = torch.arange(len(embeddings), device=embeddings.device)
        seen = (order != one[:, None]) & (order != other[:, None])
        return logits.masked_fill(~(seen[:, None, :, None] & clips.mask[None, None]), -torch.inf).flatten(2)
