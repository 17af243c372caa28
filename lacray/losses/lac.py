"""Local-Alignment Contrastive loss (arXiv 2409.04607), with every departure of its release as a named variant."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lacray.config import LacConfig
from lacray.losses.clips import Clips
from lacray.losses.loss import Loss
from lacray.losses.parts import gaussian_log_targets, masked_cross_entropy, masked_softmax, similarity
from lacray.ops import soft_dtw, soft_nw, soft_sw


def warped(
    table: Tensor, gap_open: Tensor, gap_extend: Tensor, *, gamma: float, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Soft-DTW in the place of `soft_sw`: the cost is minus the similarity, and there are no gaps to be penalised.

    D[i,j] = S[i,j] + max^gamma(D[i-1,j-1], D[i-1,j], D[i,j-1]), from both first frames to both last ones; its last cell
    is the score, D the match table, as Eq. 2 has them.
    """
    value, accumulated = soft_dtw(-table, gamma=gamma, lengths=lengths)
    return -value, -accumulated


ALIGNMENTS = {"local": soft_sw, "end_to_end": soft_nw, "dtw": warped}


class LacLoss(Loss[LacConfig]):
    """L_c + alpha (L_l + beta (L_sw12 + L_sw21)), Eq. 8, averaged over the pairs of a batch.

    The gap penalties are its parameters (`config.gap`), so they are synchronised, saved and restored with the encoder.

    Args:
        config: the variant.
        num_frames: T; only `gap: position` depends on it.
    """

    raw_gap_open: Tensor
    raw_gap_extend: Tensor

    def __init__(self, config: LacConfig, *, num_frames: int) -> None:
        super().__init__(config)
        # Penalties that nothing trains are constants: DDP waits for the gradient of every parameter.
        trained = config.alpha > 0 and (config.beta > 0 or (config.local and config.match_gradient))
        self.is_learned = config.gap != "fixed" and trained
        shape = (num_frames, num_frames) if config.gap == "position" else ()
        for name, penalty in (("gap_open", config.gap_open), ("gap_extend", config.gap_extend)):
            if config.gap != "fixed" and config.gap_transform == "softplus":
                penalty = penalty + math.log(-math.expm1(-penalty))  # the inverse of softplus
            tensor = torch.full(shape, float(penalty))
            if not self.is_learned:
                self.register_buffer(f"raw_{name}", tensor)
            else:
                self.register_parameter(f"raw_{name}", nn.Parameter(tensor))

    def gap_penalties(self) -> tuple[Tensor, Tensor]:
        """The effective penalties (open, extend), () or (T, T), in units of similarity."""
        if self.config.gap == "fixed" or self.config.gap_transform == "raw":
            return self.raw_gap_open, self.raw_gap_extend
        return F.softplus(self.raw_gap_open), F.softplus(self.raw_gap_extend)

    def parameter_groups(self) -> list[dict[str, object]]:
        own = list(self.parameters())
        return [{"params": own, "lr": self.config.gap_learning_rate, "weight_decay": 0.0}] if own else []

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """The mean penalties."""
        opening, extending = self.gap_penalties()
        return {"gap.open": opening.mean().item(), "gap.extend": extending.mean().item()}

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 8.

        Returns:
            The scalar loss, and its detached parts by name: L_c, L_l, L_sw (the sum of both scores), total. Parts with
            weight 0 are not computed and absent.

        Raises:
            ValueError: `gap: position` with clips of another length than `num_frames`.

        Source: LAC paper, Eq. 2-8.
        """
        config = self.config
        pairs = _Pairs(clips, config)
        contrastive = self._contrastive(pairs)
        parts = {"L_c": contrastive}
        total = contrastive
        if config.alpha > 0 and (config.local or config.beta > 0):
            alignment, match = self._align(pairs)
            parts["L_sw"] = alignment
            weighted = config.beta * config.score_sign * alignment if config.beta > 0 else torch.zeros_like(alignment)
            if config.local:
                parts["L_l"] = self._local(pairs, match if config.match_gradient else match.detach())
                weighted = parts["L_l"] + weighted
            total = contrastive + config.alpha * weighted
        parts["total"] = total
        return total.mean(), {name: part.mean().detach() for name, part in parts.items()}

    def _align(self, pairs: _Pairs) -> tuple[Tensor, Tensor]:
        """L_sw12 + L_sw21 of each pair, (P,), and the match tables of both directions, (2P, T, T)."""
        config = self.config
        one, other = pairs.embeddings
        table = similarity(one, other, kind=config.similarity, eps=config.similarity_eps)
        gap_open, gap_extend = (gap.to(table.dtype) for gap in self.gap_penalties())
        if gap_open.dim() and gap_open.shape != table.shape[1:]:
            raise ValueError(
                f"embeddings: loss.gap=position was built for clips of {gap_open.shape[0]} frames, "
                f"got {table.shape[1]}; use loss.gap=scalar for clips of any length"
            )
        align = ALIGNMENTS[config.alignment]
        # One call for both directions: the restricted affine recursion is not symmetric in its sequences.
        score, match = align(
            torch.cat([table, table.mT]),
            gap_open,
            gap_extend,
            gamma=config.gamma,
            lengths=torch.cat([pairs.lengths, pairs.lengths.flip(1)]),
        )
        num_pairs = len(table)
        return score[:num_pairs] + score[num_pairs:], match

    def _contrastive(self, pairs: _Pairs) -> Tensor:
        """L_c of each pair, (P,)."""
        config = self.config
        one, other = pairs.embeddings

        def one_way(logits: Tensor, here: int, there: int) -> Tensor:
            value = masked_cross_entropy(
                logits,
                pairs.log_targets(here, there),
                pairs.masks[here],
                pairs.masks[there],
                kl=config.contrastive_divergence == "kl",
                eps=config.contrastive_eps,
            )
            return value / pairs.lengths[:, there] if config.contrastive_norm == "cells" else value

        logits = one @ other.mT / config.tau
        value = one_way(logits, 0, 1)
        return (value + one_way(logits.mT, 1, 0)) / 2 if config.symmetric else value

    def _local(self, pairs: _Pairs, match: Tensor) -> Tensor:
        """L_l of each pair, (P,), from the match tables of both directions (2P, T, T)."""
        config = self.config
        num_pairs = len(pairs.lengths)
        tau = config.match_tau if config.match_tau is not None else config.tau
        forth = masked_softmax(match[:num_pairs] / tau, pairs.masks[0], pairs.masks[1])
        back = masked_softmax(match[num_pairs:] / tau, pairs.masks[1], pairs.masks[0])

        def one_way(forth: Tensor, back: Tensor, here: int, there: int) -> Tensor:
            if config.combine == "product":
                logits = forth * back.mT
            elif config.combine == "matmul":
                logits = forth @ back.mT
            else:
                logits, there = forth @ back, here
            return masked_cross_entropy(logits, pairs.log_targets(here, there), pairs.masks[here], pairs.masks[there])

        value = one_way(forth, back, 0, 1)
        return (value + one_way(back, forth, 1, 0)) / 2 if config.symmetric else value


class _Pairs:
    """Both clips of each pair: embeddings, masks, lengths, and the targets between their frames."""

    def __init__(self, clips: Clips, config: LacConfig) -> None:
        embeddings = F.normalize(clips.embeddings, dim=-1) if config.normalize else clips.embeddings
        sides = clips.pairs.T
        self.embeddings = [embeddings[side] for side in sides]
        self.masks = [clips.mask[side] for side in sides]
        self.lengths = clips.lengths[clips.pairs]
        dtype = embeddings.dtype
        self._steps = [clips.steps[side].to(dtype) for side in sides]
        self._video_lengths = [clips.video_lengths[side].to(dtype) for side in sides]
        self._config = config
        self._targets: dict[tuple[int, int], Tensor] = {}

    def log_targets(self, here: int, there: int) -> Tensor:
        if (here, there) not in self._targets:
            ratio = None
            if self._config.time_scale == "relative" and here != there:
                ratio = self._video_lengths[there] / self._video_lengths[here]
            self._targets[here, there] = gaussian_log_targets(
                self._steps[here],
                self._steps[there],
                sigma=self._config.sigma,
                mask_to=self.masks[there],
                time_ratio=ratio,
            )
        return self._targets[here, there]
