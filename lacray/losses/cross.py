"""Cross-video contrast: SCL between two views of one video, and between videos by where an alignment matches them."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from lacray.config import CrossConfig, SclConfig
from lacray.losses.clips import Clips
from lacray.losses.lac import ALIGNMENTS
from lacray.losses.loss import Loss
from lacray.losses.parts import draws_of, masked_log_softmax, masked_softmax
from lacray.losses.scl import SclLoss
from lacray.losses.whole import WholeVideos

LEAST_MASS = 1e-6
"""Of all targets of a step, below which they count for less: next to nothing matches."""

Matches = dict[tuple[int, int], Tensor]


class CrossLoss(Loss[CrossConfig]):
    """L_c + lambda(t) L_x, over all clips of a step.

    L_c is SCL's. L_x is the cross-entropy of the softmax over the frames of another video's clip with the targets

    y_ij = sum_l P[s_i, l] exp(-(l - s_j)^2 / 2 sigma^2),

    over all clips of `partners` pairs of videos, both ways, and over the sum of all y: a frame counts as much as it is
    matched within the other clip. P is the derivative of the score of an alignment of both videos, whole, in the
    log-odds of their matches: the probability of each match, a constant.
    """

    couples_pairs = True

    def __init__(self, config: CrossConfig, *, embedding: int) -> None:
        super().__init__(config)
        own = ("name", "negatives", "projection_hidden")
        shared = {name: getattr(config, name) for name in SclConfig.model_fields if name not in own}
        self.contrast = SclLoss(SclConfig(**shared), embedding=embedding)
        self.wants_features = config.evidence != "encoder"
        self.whole_stride = config.stride
        self._videos: WholeVideos | None = None
        self._num_steps = 0
        self._sums = {"pairs": 0.0, "matched": 0.0}

    def parameter_groups(self) -> list[dict[str, object]]:
        return self.contrast.parameter_groups()

    def diagnostics(self) -> dict[str, float]:
        """The head's norm; of the steps since the videos were seen, the mean number of pairs of videos, and the mean
        probability that a frame of one is matched in the other."""
        means = {f"cross.{name}": value / max(1, self._num_steps) for name, value in self._sums.items()}
        return {**self.contrast.diagnostics(), **means}

    def weight(self) -> float:
        """lambda at `done`."""
        config = self.config
        width = config.ramp_end - config.ramp_start
        risen = (self.done - config.ramp_start) / width if width > 0 else float(self.done >= config.ramp_start)
        return config.weight * min(1.0, max(0.0, risen))

    def wants_videos(self, until: float) -> bool:
        return self.config.weight > 0 and until > self.config.ramp_start

    def see(self, videos: WholeVideos) -> None:
        self._videos = videos
        self._num_steps = 0
        self._sums = dict.fromkeys(self._sums, 0.0)

    def compute(self, clips: Clips) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of all clips of a step.

        Returns:
            The scalar loss, and its detached parts by name: L_c, `lambda`, and what L_x and, where they have a weight,
            the contrast of order L_o and the score L_s add to the loss, lambda and weight included; total.
        """
        contrastive, _ = self.contrast.compute(clips)
        weight = self.weight()
        added = {"lambda_L_x": contrastive.new_zeros(())}
        added |= {f"lambda_{name}": contrastive.new_zeros(()) for name, own in self._scored().items() if own > 0}
        if weight > 0:
            assert self._videos is not None, "see the videos first"
            pairs = self._partners(clips)
            self._num_steps += 1
            self._sums["pairs"] += len(pairs)
            if pairs:
                added["lambda_L_x"] = weight * self._crossed(clips, self._matches(pairs, self._videos))
                scores = self._scores(clips, pairs, self._videos) if len(added) > 1 else {}
                added |= {f"lambda_{name}": weight * self._scored()[name] * own for name, own in scores.items()}
        total = contrastive + sum(added.values())
        told = contrastive.new_tensor(weight)
        parts = {"L_c": contrastive, "lambda": told, **added, "total": total}
        return total, {name: part.detach() for name, part in parts.items()}

    def _scored(self) -> dict[str, float]:
        return {"L_o": self.config.order, "L_s": self.config.score}

    def _partners(self, clips: Clips) -> list[tuple[int, int]]:
        """Pairs of different videos of one action, in the order of the step: `partners` of them, drawn by the step."""
        actions = dict(zip(clips.video.tolist(), clips.action.tolist(), strict=True))
        every = [pair for pair in itertools.combinations(actions, 2) if actions[pair[0]] == actions[pair[1]]]
        if len(every) <= self.config.partners:
            return every
        drawn = torch.randperm(len(every), generator=draws_of(clips))[: self.config.partners]
        return [every[place] for place in sorted(drawn.tolist())]

    @torch.no_grad()
    def _matches(self, pairs: list[tuple[int, int]], videos: WholeVideos) -> Matches:
        """P of each pair of videos, (N, M), and of the pair the other way round, (M, N); a row's sum is at most 1."""
        config = self.config
        tables = [videos.log_odds(*pair, evidence=config.evidence) for pair in pairs]
        sizes = [tuple(table.shape) for table in tables]
        num_rows, num_columns = (max(size[axis] for size in sizes) for axis in (0, 1))
        stacked = tables[0].new_zeros(len(tables), num_rows, num_columns)
        for own, table, (rows, columns) in zip(stacked, tables, sizes, strict=True):
            own[:rows, :columns] = table
        forth, back = match_probabilities(stacked, torch.tensor(sizes, device=stacked.device), config)
        found: Matches = {}
        for pair, (rows, columns), there, here in zip(pairs, sizes, forth, back, strict=True):
            found[pair] = there[:rows, :columns]
            found[pair[::-1]] = here[:columns, :rows]
        # A frame counts once, however often a warping path passes it.
        found = {pair: own / own.sum(1, keepdim=True).clamp_min(1) for pair, own in found.items()}
        return made_consistent(found, config.consistency) if config.consistency > 0 else found

    def _crossed(self, clips: Clips, matches: Matches) -> Tensor:
        """L_x, a scalar."""
        assert self._videos is not None
        config = self.config
        embeddings = self.contrast.projected(clips.embeddings)
        of_video = _clips_of(clips)
        ones, others, targets = [], [], []
        mass = embeddings.new_zeros(())
        for (here, there), matched in matches.items():
            one, other = of_video[here], of_video[there]
            y = cross_targets(
                matched,
                clips.steps[one],
                clips.steps[other],
                sigma=config.sigma,
                strides=(self._videos.strides[here], self._videos.strides[there]),
            )
            targets.append(y.flatten(0, 1))
            grid = torch.cartesian_prod(one, other)
            ones.append(grid[:, 0])
            others.append(grid[:, 1])
            mass += matched.sum(1).mean() / len(matches)
        self._sums["matched"] += float(mass)
        one, other = torch.cat(ones), torch.cat(others)
        rows, columns = clips.mask[one], clips.mask[other]
        cells = rows[:, :, None] & columns[:, None, :]
        weights = torch.cat(targets).to(embeddings.dtype).masked_fill(~cells, 0)
        logits = _taken(embeddings, one) @ _taken(embeddings, other).mT / config.tau
        return -(weights * masked_log_softmax(logits, columns)).sum() / weights.sum().clamp_min(LEAST_MASS)

    def _scores(self, clips: Clips, pairs: list[tuple[int, int]], videos: WholeVideos) -> dict[str, Tensor]:
        """What the alignment scores of two videos' clips say: L_o of their order, L_s of their size; both scalars."""
        config = self.config
        of_video = _clips_of(clips)
        grid = torch.cat([torch.cartesian_prod(of_video[one], of_video[other]) for one, other in pairs])
        one, other = grid.T
        embeddings = F.normalize(clips.embeddings, dim=-1)
        table = videos.odds(_taken(embeddings, one) @ _taken(embeddings, other).mT)
        lengths = clips.lengths[grid]
        found: dict[str, Tensor] = {}
        score = self._score(table, lengths)
        if config.score > 0:
            found["L_s"] = -(score / lengths.amin(1)).mean()
        if config.order > 0:
            order = torch.arange(table.shape[1], device=table.device)
            backwards = (lengths[:, :1] - 1 - order).clamp_min(0)
            reversed_ = table.gather(1, backwards[:, :, None].expand_as(table))
            # The logarithm of the probability that the clip, and not its reversal, is what is aligned.
            found["L_o"] = F.softplus(self._score(reversed_, lengths) - score).mean()
        return found

    def _score(self, table: Tensor, lengths: Tensor) -> Tensor:
        config = self.config
        gaps = table.new_tensor(config.gap_open), table.new_tensor(config.gap_extend)
        return ALIGNMENTS[config.alignment](table, *gaps, gamma=config.gamma, lengths=lengths)[0]


def _taken(embeddings: Tensor, clips: Tensor) -> Tensor:
    """The embeddings of some clips, one clip as often as it is named.

    Not by `embeddings[clips]`: what comes back to a clip that is named twice would be added by threads, in any order.
    """
    return embeddings.index_select(0, clips)


def _clips_of(clips: Clips) -> dict[int, Tensor]:
    """Which clips of a step are of each video."""
    return {video: (clips.video == video).nonzero()[:, 0] for video in dict.fromkeys(clips.video.tolist())}


def match_probabilities(log_odds: Tensor, lengths: Tensor, config: CrossConfig) -> tuple[Tensor, Tensor]:
    """The probability of every match of some pairs of videos, and of the pairs the other way round.

    Args:
        log_odds: (P, N, M), in nats.
        lengths: (P, 2) int64, frames of each pair's videos.

    Returns:
        (P, N, M), (P, M, N), 0 beyond the lengths. Of an alignment the one is the other, transposed: the derivative of
        its score. Nearest neighbours are softmax over the other video's frames, each way.
    """
    if config.alignment == "nearest":
        rows, columns = (
            torch.arange(size, device=log_odds.device) < lengths[:, axis, None]
            for axis, size in enumerate(log_odds.shape[1:])
        )
        scaled = log_odds / config.gamma
        return masked_softmax(scaled, rows, columns), masked_softmax(scaled.mT, columns, rows)
    with torch.enable_grad():
        leaf = log_odds.detach().requires_grad_()
        gaps = leaf.new_tensor(config.gap_open), leaf.new_tensor(config.gap_extend)
        score, _ = ALIGNMENTS[config.alignment](leaf, *gaps, gamma=config.gamma, lengths=lengths)
        (match,) = torch.autograd.grad(score.sum(), leaf)
    return match, match.mT


def made_consistent(matches: Matches, share: float) -> Matches:
    """Matches of which a share are those that lead through a third video, the mean over all that there are."""
    found: Matches = {}
    videos = dict.fromkeys(one for one, _ in matches)
    for (one, other), own in matches.items():
        between = [v for v in videos if (one, v) in matches and (v, other) in matches]
        ways = [matches[one, v] @ matches[v, other] for v in between]
        found[one, other] = (1 - share) * own + share * torch.stack(ways).mean(0) if ways else own
    return found


def cross_targets(
    matched: Tensor, steps_from: Tensor, steps_to: Tensor, *, sigma: float, strides: tuple[int, int] = (1, 1)
) -> Tensor:
    """y_ij = sum_l P[s_i, l] exp(-(l - s_j)^2 / 2 sigma^2), of the clips of one video with those of another.

    Args:
        matched: (N, M), P; of every `strides`-th frame of each video.
        steps_from, steps_to: (A, T), (B, U) int64 frame indices of the one and of the other video's clips.
        sigma: > 0, frames.

    Returns:
        (A, B, T, U).
    """
    near = ((steps_from + strides[0] // 2) // strides[0]).clamp_max(len(matched) - 1)
    places = torch.arange(matched.shape[1], device=matched.device, dtype=matched.dtype) * strides[1]
    apart = places[:, None] - steps_to[:, None, :].to(matched.dtype)
    return matched[near][:, None] @ torch.exp(-apart.square() / (2 * sigma**2))[None]
