"""Local-Alignment Contrastive loss (arXiv 2409.04607), with every departure of its release as a named variant."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lacray.config import LacConfig
from lacray.losses.targets import gaussian_log_targets
from lacray.ops import soft_nw, soft_sw


class LacLoss(nn.Module):
    """L_c + alpha (L_l + beta (L_sw12 + L_sw21)), Eq. 8, averaged over the pairs of a batch.

    The gap penalties are its parameters (`config.gap`), so they are synchronised, saved and restored with the encoder.

    Args:
        config: the variant.
        num_frames: T; only `gap: position` depends on it.
    """

    raw_gap_open: Tensor
    raw_gap_extend: Tensor

    def __init__(self, config: LacConfig, *, num_frames: int) -> None:
        super().__init__()
        self.config = config
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
        """The loss's own parameters with their learning rate, for the optimiser."""
        own = list(self.parameters())
        return [{"params": own, "lr": self.config.gap_learning_rate, "weight_decay": 0.0}] if own else []

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """What this loss has learned, by column name: the mean penalties."""
        opening, extending = self.gap_penalties()
        return {"gap.open": opening.mean().item(), "gap.extend": extending.mean().item()}

    def forward(
        self,
        embeddings: Tensor,
        steps: Tensor,
        *,
        lengths: Tensor | None = None,
        video_lengths: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of pairs.

        Args:
            embeddings: (B, 2, T, E) float; half precision is computed in float32.
            steps: (B, 2, T) frame index of each sampled frame in its video.
            lengths: (B, 2) int64, real frames of each clip; frames beyond change nothing. None: all T.
            video_lengths: (B, 2) frames of each whole video, for `time_scale: relative`. None: equal.

        Returns:
            The scalar loss, and its detached parts by name: L_c, L_l, L_sw (the sum of both scores), total.
            Parts with weight 0 are not computed and absent.

        Raises:
            ValueError: `gap: position` with clips of another length than `num_frames`.

        Source: LAC paper, Eq. 2-8.
        """
        config = self.config
        with torch.autocast(embeddings.device.type, enabled=False):
            if embeddings.dtype in (torch.float16, torch.bfloat16):
                embeddings = embeddings.float()
            num_pairs, _, num_frames, _ = embeddings.shape
            if lengths is None:
                lengths = torch.full((num_pairs, 2), num_frames, device=embeddings.device)
            # Garbage in padded frames must not reach a sum, where 0 * inf would be NaN.
            mask = torch.arange(num_frames, device=embeddings.device) < lengths[..., None]
            embeddings = embeddings.masked_fill(~mask[..., None], 0.0)
            if config.normalize:
                embeddings = F.normalize(embeddings, dim=-1)
            steps = steps.masked_fill(~mask, 0)
            pair = _Pair(embeddings, steps, mask, lengths, video_lengths if config.time_scale == "relative" else None)

            total = contrastive = self._contrastive(pair)
            parts = {"L_c": contrastive.mean()}
            if config.alpha > 0 and (config.local or config.beta > 0):
                both = similarity(embeddings[:, 0], embeddings[:, 1], kind=config.similarity, eps=config.similarity_eps)
                gap_open, gap_extend = (gap.to(both.dtype) for gap in self.gap_penalties())
                if gap_open.dim() and gap_open.shape != both.shape[1:]:
                    raise ValueError(
                        f"embeddings: loss.gap=position was built for clips of {gap_open.shape[0]} frames, "
                        f"got {num_frames}; use loss.gap=scalar for clips of any length"
                    )
                align = soft_sw if config.alignment == "local" else soft_nw
                # One call for both directions: the restricted affine recursion is not symmetric in its sequences.
                score, match = align(
                    torch.cat([both, both.transpose(1, 2)]),
                    gap_open,
                    gap_extend,
                    gamma=config.gamma,
                    lengths=torch.cat([lengths, lengths.flip(1)]),
                )
                weighted = torch.zeros_like(contrastive)
                if config.local:
                    local = self._local(pair, match if config.match_gradient else match.detach())
                    parts["L_l"] = local.mean()
                    weighted = weighted + local
                alignment = score[:num_pairs] + score[num_pairs:]
                parts["L_sw"] = alignment.mean()
                if config.beta > 0:
                    weighted = weighted + config.beta * config.score_sign * alignment
                total = contrastive + config.alpha * weighted
            loss = total.mean()
            return loss, {**{name: part.detach() for name, part in parts.items()}, "total": loss.detach()}

    def _contrastive(self, pair: _Pair) -> Tensor:
        """L_c of each pair, (B,)."""
        logits = pair.embeddings[:, 0] @ pair.embeddings[:, 1].transpose(1, 2) / self.config.tau
        value = self._cross_entropy(logits, pair, 0, 1, is_contrastive=True)
        if self.config.symmetric:
            value = (value + self._cross_entropy(logits.transpose(1, 2), pair, 1, 0, is_contrastive=True)) / 2
        return value

    def _local(self, pair: _Pair, match: Tensor) -> Tensor:
        """L_l of each pair, (B,), from the match tables of both directions (2B, T, T)."""
        config = self.config
        num_pairs = len(pair.lengths)
        tau = config.match_tau if config.match_tau is not None else config.tau
        forth = masked_softmax(match[:num_pairs] / tau, pair.mask[:, 0], pair.mask[:, 1])
        back = masked_softmax(match[num_pairs:] / tau, pair.mask[:, 1], pair.mask[:, 0])

        def one_way(there: Tensor, back: Tensor, one: int, other: int) -> Tensor:
            if config.combine == "product":
                return self._cross_entropy(there * back.transpose(1, 2), pair, one, other)
            if config.combine == "matmul":
                return self._cross_entropy(there @ back.transpose(1, 2), pair, one, other)
            return self._cross_entropy(there @ back, pair, one, one)

        value = one_way(forth, back, 0, 1)
        return (value + one_way(back, forth, 1, 0)) / 2 if config.symmetric else value

    def _cross_entropy(
        self, logits: Tensor, pair: _Pair, one: int, other: int, *, is_contrastive: bool = False
    ) -> Tensor:
        """Cross-entropy of softmax_j(logits) (B, N, M) with the Gaussian targets, mean over real frames: (B,)."""
        config = self.config
        targets = pair.log_targets(one, other, config.sigma).to(logits.dtype)
        rows, columns = pair.mask[:, one], pair.mask[:, other]
        log_probabilities = torch.log_softmax(logits.masked_fill(~columns[:, None, :], -torch.inf), dim=-1)
        if is_contrastive and config.contrastive_eps > 0:
            log_probabilities = (log_probabilities.exp() + config.contrastive_eps).log()
        cells = rows[:, :, None] & columns[:, None, :]
        # 0 log 0 = 0: outside the mask, and where a target underflows beside others that do not.
        terms = -targets.exp() * log_probabilities.masked_fill(~cells, 0.0)
        if is_contrastive and config.contrastive_divergence == "kl":
            terms = terms + targets.exp() * targets.masked_fill(~cells, 0.0)
        value = terms.masked_fill(~cells, 0.0).sum(dim=(1, 2)) / pair.lengths[:, one]
        if is_contrastive and config.contrastive_norm == "cells":
            value = value / pair.lengths[:, other]
        return value


class _Pair:
    """What both cross-entropies need of a batch: embeddings, targets, masks."""

    def __init__(
        self, embeddings: Tensor, steps: Tensor, mask: Tensor, lengths: Tensor, video_lengths: Tensor | None
    ) -> None:
        self.embeddings, self.steps, self.mask, self.lengths = embeddings, steps, mask, lengths
        self.video_lengths = video_lengths
        self._targets: dict[tuple[int, int], Tensor] = {}

    def log_targets(self, one: int, other: int, sigma: float) -> Tensor:
        if (one, other) not in self._targets:
            dtype = self.embeddings.dtype
            ratio = None
            if self.video_lengths is not None and one != other:
                ratio = self.video_lengths[:, other].to(dtype) / self.video_lengths[:, one].to(dtype)
            self._targets[one, other] = gaussian_log_targets(
                self.steps[:, one].to(dtype),
                self.steps[:, other].to(dtype),
                sigma=sigma,
                mask_to=self.mask[:, other],
                time_ratio=ratio,
            )
        return self._targets[one, other]


def similarity(one: Tensor, other: Tensor, *, kind: str, eps: float) -> Tensor:
    """Similarity of every frame of the one clip with every frame of the other; larger is more alike.

    Args:
        one, other: (B, N, E), (B, M, E).
        kind: inverse_squared 1/(d^2 + eps), inverse 1/(d + eps), negative_squared -d^2, cosine, or rbf exp(-d^2/2).

    Returns:
        (B, N, M).
    """
    if kind == "cosine":
        return F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).transpose(1, 2)
    product = one @ other.transpose(1, 2)
    squared = (one.square().sum(-1)[:, :, None] + other.square().sum(-1)[:, None, :] - 2 * product).clamp_min(0)
    if kind == "negative_squared":
        return -squared
    if kind == "rbf":
        return torch.exp(-squared / 2)
    if kind == "inverse":
        # The distance's slope is infinite at 0; 1e-12 keeps it finite and moves distances below 1e-6 only.
        return 1 / ((squared + 1e-12).sqrt() + eps)
    return 1 / (squared + eps)


def masked_softmax(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Softmax over the real columns of each real row, (B, N, M); 0 elsewhere."""
    cells = rows[:, :, None] & columns[:, None, :]
    # Rows without a real cell would be softmax of all -inf, NaN in the gradient; they are softmax of zeros instead.
    logits = logits.masked_fill(~cells & rows[:, :, None], -torch.inf).masked_fill(~rows[:, :, None], 0.0)
    return torch.softmax(logits, dim=-1).masked_fill(~cells, 0.0)
