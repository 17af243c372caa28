"""LRProp, reconstructed: position labels propagated from one video to another along the warping path between them.

No code of it is public. What its paper says and this does: two videos of one action; the hard DTW path between their
embeddings; each frame's Gaussian position labels carried along that path to the other video; the KL divergence of these
labels from the softmax over the other video's frames; and a soft-DTW regularised by C-IDM, as in LAV. What it does not
say is CARL's and LAV's: temperature, width, margins. `docs/methods.md` lists the choices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lacray.config import LrpropConfig
from lacray.losses.clips import Clips
from lacray.losses.loss import Loss
from lacray.losses.parts import contrastive_idm, gaussian_log_targets, masked_cross_entropy, squared_distances
from lacray.ops import dtw_path, soft_dtw


class LrpropLoss(Loss[LrpropConfig]):
    """KL of propagated labels, both ways, plus alpha (soft-DTW + idm_weight C-IDM); mean over pairs.

    Source: LRProp, as its paper describes it; see the module's docstring.
    """

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        embeddings = F.normalize(clips.embeddings, dim=-1) if config.normalize else clips.embeddings
        one, other = clips.pairs.T
        lengths = clips.lengths[clips.pairs]
        cost = squared_distances(embeddings[one], embeddings[other])
        _, path = dtw_path(cost.detach(), lengths=lengths)
        logits = embeddings[one] @ embeddings[other].mT / config.tau
        rows, columns = clips.mask[one], clips.mask[other]
        there, back = propagated_steps(path, clips.steps[other], clips.steps[one])
        labels = (
            self._divergence(logits, there, clips.steps[other], rows, columns)
            + self._divergence(logits.mT, back, clips.steps[one], columns, rows)
        ) / 2
        size = lengths.to(cost.dtype).mean(1)
        warping, _ = soft_dtw(cost, gamma=config.gamma, lengths=lengths)
        own = squared_distances(embeddings, embeddings)
        idm = contrastive_idm(
            own, clips.steps, clips.video_lengths, clips.mask, margin=config.margin, sigma=config.idm_sigma
        )
        alignment = (warping + config.idm_weight * (idm[one] + idm[other])) / size
        loss = (labels + config.alpha * alignment).mean()
        parts = {"labels": labels.mean(), "alignment": alignment.mean(), "total": loss}
        return loss, {name: part.detach() for name, part in parts.items()}

    def _divergence(self, logits: Tensor, carried: Tensor, steps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        targets = gaussian_log_targets(
            carried.to(logits.dtype), steps.to(logits.dtype), sigma=self.config.sigma, mask_to=columns
        )
        return masked_cross_entropy(logits, targets, rows, columns, kl=True)


def propagated_steps(path: Tensor, steps_of_columns: Tensor, steps_of_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where each frame lies in the other video by a warping path: the mean step of the frames that it is matched with.

    Args:
        path: (P, L, 2) int64, -1 beyond its end.
        steps_of_columns, steps_of_rows: (P, M), (P, N) frame indices.

    Returns:
        For each row its step among the columns' (P, N), for each column among the rows' (P, M); 0 off the path.
    """

    def carried(to: Tensor, by: Tensor, values: Tensor, num: int) -> Tensor:
        on_path = path[..., 0] >= 0
        found = values.to(torch.float64).gather(1, by.clamp_min(0)).masked_fill(~on_path, 0)
        sums = found.new_zeros(len(path), num).scatter_add(1, to.clamp_min(0), found)
        counts = found.new_zeros(len(path), num).scatter_add(1, to.clamp_min(0), on_path.to(found.dtype))
        return sums / counts.clamp_min(1)

    rows, columns = path[..., 0], path[..., 1]
    return (
        carried(rows, columns, steps_of_columns, steps_of_rows.shape[1]),
        carried(columns, rows, steps_of_rows, steps_of_columns.shape[1]),
    )
