"""The training videos as a loss sees them whole: embedded by the encoder as it is, and what their likeness is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lacray import distributed
from lacray.data import DataError, FrameStore, Video
from lacray.data.sampling import context_steps, frames_once
from lacray.encoder import Encoder, centred_over_time
from lacray.losses import Loss, WholeVideos
from lacray.odds import Odds, log_odds

MOST_FRAMES = 1024
"""Of a video; of a longer one every second, third, ... is kept."""
MOST_PAIRS = 16
"""Of videos that the log-odds are found on."""
MOST_CELLS = 1 << 20
"""Of their tables, one pair at least."""


class WholeEmbedder:
    """Embeds all training videos, each rank its share, for every rank; what does not change is kept.

    Nothing is drawn, so that what trains goes on to the last bit as if it had not been called.

    Args:
        loss: says which frames of a video it sees, and whether their features too.
        videos: those that are trained on.
    """

    def __init__(self, loss: Loss[Any], videos: Sequence[Video], *, store: FrameStore, device: torch.device) -> None:
        self.videos, self.store, self.device = videos, store, device
        self.with_features = loss.wants_features and store.config.input == "features"
        self.strides = [max(loss.whole_stride, -(-video.num_frames // MOST_FRAMES)) for video in videos]
        self.pairs = _drawn(videos, self.strides)
        self._features: list[Tensor] | None = None
        self._feature_odds: Odds | None = None

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> WholeVideos:
        """All videos by an encoder, which is in eval mode afterwards; entered by every rank.

        Raises:
            DataError: a video that can no longer be read, or whose embeddings are not finite, on every rank.
        """
        encoder.eval()
        rank, world_size = distributed.rank(), distributed.world_size()
        own = range(rank, len(self.videos), world_size)
        mine = distributed.from_each(lambda: [self._embedded(encoder, number) for number in own])
        shares = distributed.all_gather(mine)
        embeddings = [
            shares[number % world_size][number // world_size].to(self.device) for number in range(len(self.videos))
        ]
        if self.with_features and self._features is None:
            features = distributed.from_each(lambda: [self._frozen(number) for number in range(len(self.videos))])
            self._features, self._feature_odds = features, self._odds(features)
        return WholeVideos(embeddings, self._odds(embeddings), self.strides, self._features, self._feature_odds)

    def _embedded(self, encoder: Encoder, number: int) -> Tensor:
        video, config = self.videos[number], self.store.config
        seen = context_steps(self._steps(number), num_contexts=config.num_seen, stride=config.context_stride)
        needed, places = frames_once(seen)
        frames, own = (torch.from_numpy(array).to(self.device) for array in (self.store.read(video, needed), places))
        whole = encoder.over_time(encoder.per_frame(frames, own[None]))[0]
        embeddings = F.normalize(whole, dim=-1).cpu()
        if not bool(torch.isfinite(embeddings).all()):
            raise DataError(f"{video.path}: its embeddings must be finite, got NaN or infinity; mend or remove it")
        return embeddings

    def _frozen(self, number: int) -> Tensor:
        frames = self.store.read(self.videos[number], self._steps(number))
        # As the encoder does: what all frames of a video share does not tell them apart.
        centred = centred_over_time(torch.from_numpy(frames).to(self.device, torch.float32)[None])[0]
        return F.normalize(centred, dim=-1)

    def _steps(self, number: int) -> NDArray[np.int64]:
        return np.arange(0, self.videos[number].num_frames, self.strides[number])

    def _odds(self, codes: list[Tensor]) -> Odds:
        """The log-odds by the cosine of normalised codes; rank 0's, since processors differ in the last bit."""

        def found() -> Odds:
            tables = [(codes[one] @ codes[other].mT).float().cpu().numpy() for one, other in self.pairs]
            similarities, odds, _ = log_odds(tables)
            return Odds(tuple(similarities.tolist()), tuple(odds.tolist()))

        return distributed.from_first(found)


def _drawn(videos: Sequence[Video], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of videos of one action by a draw that is always the same: as many as there is room for."""
    of_action: dict[str, list[int]] = {}
    for number, video in enumerate(videos):
        of_action.setdefault(video.action, []).append(number)
    able = [number for own in of_action.values() if len(own) > 1 for number in own]
    rng = np.random.default_rng(0)
    pairs: dict[tuple[int, int], int] = {}
    for _ in range(4 * MOST_PAIRS if able else 0):
        one = able[int(rng.integers(len(able)))]
        other = int(rng.choice([number for number in of_action[videos[one].action] if number != one]))
        size = (videos[one].num_frames // strides[one]) * (videos[other].num_frames // strides[other])
        if pairs and (len(pairs) == MOST_PAIRS or sum(pairs.values()) + size > MOST_CELLS):
            break
        pairs[min(one, other), max(one, other)] = size
    return list(pairs)
