"""Temporal cycle-consistency: from a frame to its soft nearest neighbour in another clip, and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lacray.config import TccConfig
from lacray.losses.clips import Clips
from lacray.losses.loss import Loss
from lacray.losses.parts import draws_of, squared_distances


class TccLoss(Loss[TccConfig]):
    """Cycles over all ordered pairs of the batch's clips of one action, or random ones; averaged over cycles.

    Source: TCC (arXiv 1904.07846), Eq. 2-5; steps and label smoothing as its release has them, or as CARL's port does.
    """

    couples_pairs = True

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        embeddings = F.normalize(clips.embeddings, dim=-1) if config.normalize else clips.embeddings
        steps = clips.steps.to(embeddings.dtype)
        if config.normalize_indices:
            steps = steps / clips.video_lengths[:, None].to(embeddings.dtype)
        cycle = _random_cycles if config.stochastic else _all_cycles
        logits, target, start, weight = cycle(embeddings, clips, config)
        value = self._value(logits, target, steps[start], clips.mask[start])
        loss = (value * weight).sum()
        return loss, {"total": loss.detach()}

    def _value(self, logits: Tensor, target: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
        """The loss of each cycle: logits (C, T) over the frames that it may end at, target (C,) where it began."""
        config = self.config
        classify, start, huber_delta = (
            (_carl_classification, _carl_start, 1.0)
            if config.port == "carl"
            else (_classification, _start, config.huber_delta)
        )
        if config.objective == "classification":
            return classify(logits, target, mask, config.label_smoothing)
        probabilities = torch.softmax(logits.masked_fill(~mask, -torch.inf), dim=-1)
        found = (probabilities * steps).sum(1)
        true = start(steps, target, mask, config.label_smoothing)
        if config.objective == "regression_huber":
            return F.huber_loss(found, true, reduction="none", delta=huber_delta)
        error = (true - found).square()
        if config.objective == "regression_mse":
            return error
        variance = (probabilities * (steps - found[:, None]).square()).sum(1)
        # A cycle that ends at one frame alone has none; its logarithm must not be of 0.
        log_variance = variance.clamp_min(torch.finfo(variance.dtype).tiny).log()
        return torch.exp(-log_variance) * error + config.variance_lambda * log_variance


def _classification(logits: Tensor, target: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of each cycle's end with its start, the labels smoothed over the real frames: (C,)."""
    log_probabilities = torch.log_softmax(logits.masked_fill(~mask, -torch.inf), dim=-1).masked_fill(~mask, 0)
    own = log_probabilities.gather(1, target[:, None])[:, 0]
    return -(1 - smoothing) * own - smoothing * log_probabilities.sum(1) / mask.sum(1)


def _carl_classification(logits: Tensor, target: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """CARL's: KL divergence of the smoothed labels from the logits as they are, mean over the real frames: (C,)."""
    labels = _smoothed_labels(target, mask, smoothing, logits.dtype)
    divergence = torch.xlogy(labels, labels) - labels * logits.masked_fill(~mask, 0)
    return divergence.sum(1) / mask.sum(1)


def _start(steps: Tensor, target: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """The step at which each cycle starts, (C,)."""
    del mask, smoothing  # of the port alone
    return steps.gather(1, target[:, None])[:, 0]


def _carl_start(steps: Tensor, target: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """CARL's: the mean step by the smoothed labels, (C,)."""
    return (_smoothed_labels(target, mask, smoothing, steps.dtype) * steps).sum(1)


def _smoothed_labels(target: Tensor, mask: Tensor, smoothing: float, dtype: torch.dtype) -> Tensor:
    """1 - smoothing at each cycle's start, the rest shared by the clip's other real frames: (C, T), by CARL's port.

    1 at the start where there is no other frame, for which the port divides by 0.
    """
    num_others = mask.sum(1, keepdim=True) - 1
    others = smoothing / num_others.clamp_min(1).to(dtype) * mask
    return others.scatter(1, target[:, None], 1 - smoothing * (num_others > 0).to(dtype))


def _scaled_similarity(one: Tensor, other: Tensor, config: TccConfig) -> Tensor:
    table = -squared_distances(one, other) if config.similarity == "l2" else one @ other.mT
    return table / one.shape[-1] / config.tau


def _neighbours(one: Tensor, other: Tensor, mask: Tensor, config: TccConfig) -> Tensor:
    """Soft nearest neighbours of frames (C, N, E) among other clips' real frames (C, T, E): (C, N, E)."""
    logits = _scaled_similarity(one, other, config).masked_fill(~mask[:, None, :], -torch.inf)
    return torch.softmax(logits, dim=-1) @ other


def _all_cycles(embeddings: Tensor, clips: Clips, config: TccConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From every frame of every clip, by every other of its action: logits, start frames, start clips, weights."""
    num_clips, num_frames, _ = embeddings.shape
    order = torch.arange(num_clips, device=embeddings.device)
    start, by = torch.meshgrid(order, order, indexing="ij")
    other = (start != by) & (clips.action[start] == clips.action[by])
    start, by = start[other], by[other]
    found = _neighbours(embeddings[start], embeddings[by], clips.mask[by], config)
    logits = _scaled_similarity(found, embeddings[start], config)
    target = torch.arange(num_frames, device=embeddings.device).expand(len(start), -1)
    real = clips.mask[start]
    weight = real / real.sum(1, keepdim=True).to(embeddings.dtype) / len(start)
    return logits[real], target[real], start[:, None].expand(-1, num_frames)[real], weight[real]


def _random_cycles(embeddings: Tensor, clips: Clips, config: TccConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From random frames by random clips of the same action and back, `num_cycles` of each action in the batch."""
    generator = draws_of(clips)
    cycles, shares = [], []
    for action in clips.action.unique():
        own = (clips.action == action).nonzero()[:, 0]
        drawn = draw_cycles(len(own), config, generator).to(own.device)
        share = torch.rand(config.num_cycles, generator=generator).to(own.device)
        cycles.append(own[drawn])
        shares.append(share)
    chosen = torch.cat(cycles)
    target = (torch.cat(shares) * clips.lengths[chosen[:, 0]]).long()
    return follow_cycles(embeddings, clips, config, chosen, target)


def draw_cycles(num_clips: int, config: TccConfig, generator: torch.Generator) -> Tensor:
    """Random cycles (C, L) over clips 0..num_clips - 1; no clip twice in a row."""
    cycles = torch.randint(num_clips, (config.num_cycles, 1), generator=generator)
    for position in range(1, config.cycle_length):
        # Any clip but the one before, and for the last the first one neither, where there is a third.
        away = torch.randint(1, max(2, num_clips), (config.num_cycles, 1), generator=generator)
        following = (cycles[:, -1:] + away) % num_clips
        if position == config.cycle_length - 1 and num_clips > 2:
            clash = following == cycles[:, :1]
            following = torch.where(clash, (following + 1) % num_clips, following)
            clash = following == cycles[:, -1:]
            following = torch.where(clash, (following + 1) % num_clips, following)
        cycles = torch.cat([cycles, following], dim=1)
    return cycles


def follow_cycles(
    embeddings: Tensor, clips: Clips, config: TccConfig, cycles: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cycles (C, L) of clips from frames `target` (C,): logits, start frames, start clips, weights."""
    start = cycles[:, 0]
    found = embeddings[start, target][:, None]
    for by in cycles[:, 1:].T:
        found = _neighbours(found, embeddings[by], clips.mask[by], config)
    logits = _scaled_similarity(found, embeddings[start], config)[:, 0]
    weight = torch.full((len(cycles),), 1 / len(cycles), dtype=logits.dtype, device=logits.device)
    return logits, target, start, weight
