"""The moments of many videos that are most like a given one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.index import Nearest
from lacray.apply.scoring import Measure

FIRST_ASKED = 256
"""Neighbours that are asked for at first, for each moment wanted; more where they lie too near each other."""


@dataclass(frozen=True)
class Moment:
    """A frame of one of the videos."""

    video: str
    frame: int
    seconds: float | None
    distance: float
    """Euclidean, between embeddings as the model compares them; the order is that of its similarity."""


class Moments:
    """All frames of some videos, to be searched.

    Args:
        videos: their names, frames and times; one at least.
        measure: of the model; what it normalises is normalised here.
        nearest: an index of their embeddings, one after the other, as `prepared` makes them; None: all are compared.
    """

    def __init__(self, videos: Sequence[EmbeddedVideo], measure: Measure, nearest: Nearest | None = None) -> None:
        self.videos, self.measure = list(videos), measure
        self.starts = np.cumsum([0, *(len(video) for video in self.videos)])
        if nearest is None:
            vectors = np.empty((int(self.starts[-1]), self.videos[0].embeddings.shape[1]), dtype=np.float32)
            # Never twice in memory: there may be gigabytes of them.
            for start, video in zip(self.starts.tolist(), self.videos, strict=False):
                vectors[start : start + len(video)] = prepared(video.embeddings, measure)
            nearest = Nearest.exact(vectors)
        assert nearest.num == self.starts[-1]
        self.nearest = nearest

    def most_like(
        self,
        embedding: NDArray[np.float32],
        num: int,
        *,
        per_video: int | None = 1,
        apart: float = 1.0,
        without: str | None = None,
    ) -> list[Moment]:
        """The moments that are most like one, nearest first.

        Args:
            embedding: (E,) of the moment.
            num: how many, at most.
            per_video: of one video at most; None: any number.
            apart: seconds that two moments of one video are apart at least (frames, where it has no clock).
            without: the name of a video that does not count: the moment's own.
        """
        query = prepared(embedding[None], self.measure)[0]
        asked = min(FIRST_ASKED * num, self.nearest.num)
        while True:
            found = self._taken(query, asked, num, per_video, apart, without)
            if len(found) == num or asked == self.nearest.num:
                return found
            asked = min(8 * asked, self.nearest.num)

    def _taken(
        self,
        query: NDArray[np.float32],
        asked: int,
        num: int,
        per_video: int | None,
        apart: float,
        without: str | None,
    ) -> list[Moment]:
        places, distances = self.nearest.search(query, asked)
        owners = np.searchsorted(self.starts, places, side="right") - 1
        taken: dict[int, list[float]] = {}
        found: list[Moment] = []
        for place, owner, distance in zip(places.tolist(), owners.tolist(), distances.tolist(), strict=True):
            video = self.videos[owner]
            if video.name == without:
                continue
            own = taken.setdefault(owner, [])
            frame = place - int(self.starts[owner])
            seconds = video.time_of(frame)
            when = float(frame) if seconds is None else seconds
            if (per_video is not None and len(own) >= per_video) or any(abs(when - other) < apart for other in own):
                continue
            own.append(when)
            found.append(Moment(video.name, frame, seconds, distance))
            if len(found) == num:
                break
        return found


def prepared(embeddings: NDArray[np.float32], measure: Measure) -> NDArray[np.float32]:
    """Embeddings (T, E) such that the nearest are the most alike: every similarity falls with the distance of these."""
    if not measure.normalize and measure.kind != "cosine":
        return np.ascontiguousarray(embeddings, dtype=np.float32)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.ascontiguousarray(embeddings / np.maximum(norms, 1e-12), dtype=np.float32)
