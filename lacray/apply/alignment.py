"""What two videos have in common, moment by moment, and what each has alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lacray.apply.calibration import Calibration
from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.tables import best_path
from lacray.data.labels import SAME_S
from lacray.odds import Penalties, probabilities

MOST_CELLS = 1 << 24
"""Of a table; of longer videos every second, third, ... frame is aligned. 4096 x 4096: two of nearly three minutes."""

Kind = Literal["lead_in", "skipped", "inserted", "lead_out", "unmatched"]


@dataclass(frozen=True)
class Gap:
    """Neighbouring frames of one video that have no counterpart in the other."""

    kind: Kind
    """`lead_in`, `lead_out`: before the first and behind the last counterpart of their video. Between them `skipped`: a
    has it and b does not; `inserted`: b has it and a does not. `unmatched`: a whole video without any counterpart."""
    video: Literal["a", "b"]
    """Whose frames they are."""
    first: int
    stop: int
    """Its frames, `stop` exclusive."""
    start_seconds: float | None
    end_seconds: float | None
    """From when to when they are shown; None where the video has no clock."""
    at: float | None
    """The frame of the other video at which they would stand; None for `unmatched`."""

    @property
    def seconds(self) -> float | None:
        """How long it lasts."""
        if self.start_seconds is None or self.end_seconds is None:
            return None
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True, eq=False)
class Alignment:
    """The local alignment of two videos, a of N frames and b of M.

    The tables have a row and a column for every `stride`-th frame; all frame numbers are of the videos themselves.
    """

    a: EmbeddedVideo
    b: EmbeddedVideo
    score: float
    """Of the best local path, in nats: the log-odds of its matches, against chance, less its gaps. 0 if nothing in the
    two videos is more alike than by chance."""
    soft_score: float
    """The log-partition over all local alignments, in nats, at the model's gamma."""
    p_value: float
    """How often two videos of these lengths reach `score` that show the moments of the calibration's videos, one of
    them out of order. Small: they share an order, not only moments."""
    path: NDArray[np.int64]
    """(L, 2) frames of a and b that the best local path matches, both rising; L may be 0."""
    match: NDArray[np.float32]
    """(ceil(N / stride), ceil(M / stride)): the probability of every match, over all local alignments."""
    stride: int
    a_to_b: NDArray[np.float64]
    """(N,) for each frame of a its place among the frames of b, not falling; NaN where nothing matches."""
    b_to_a: NDArray[np.float64]
    """(M,) the other way round."""

    @property
    def probability(self) -> NDArray[np.float32]:
        """(L,) of each match of the path."""
        return self.match[tuple(self.path.T // self.stride)]

    def frame_in_b(self, frame: int) -> float | None:
        """Where a frame of a is among the frames of b, whole or between two; None where nothing matches it."""
        return _number(self.a_to_b[frame])

    def frame_in_a(self, frame: int) -> float | None:
        """Where a frame of b is among the frames of a; None where nothing matches it."""
        return _number(self.b_to_a[frame])

    def time_in_b(self, seconds: float) -> float | None:
        """The time in b of a moment of a, both in seconds; None where nothing matches it, and outside the video.

        Raises:
            NoClockError: a video has no clock, as features have none.
        """
        return _time_there(self.a, self.b, self.a_to_b, seconds)

    def time_in_a(self, seconds: float) -> float | None:
        """The time in a of a moment of b, as `time_in_b`."""
        return _time_there(self.b, self.a, self.b_to_a, seconds)

    @cached_property
    def gaps(self) -> list[Gap]:
        """What either video has alone, in order: a's, then b's."""
        return _gaps("a", self.a, self.a_to_b, self.b_to_a) + _gaps("b", self.b, self.b_to_a, self.a_to_b)


def align(
    a: EmbeddedVideo,
    b: EmbeddedVideo,
    calibration: Calibration,
    penalties: Penalties,
    *,
    stride: int | None = None,
) -> Alignment:
    """Align two embedded videos.

    Args:
        stride: take every so many-th frame; None: as few are left out as MOST_CELLS allow, mostly none.
    """
    if stride is None:
        stride = max(1, int(np.ceil(np.sqrt(len(a) * len(b) / MOST_CELLS))))
    if stride < 1:
        raise ValueError(f"stride: must be >= 1, got {stride}")
    log_odds = calibration(calibration.measure(a.embeddings[::stride], b.embeddings[::stride]))
    score, path = best_path(log_odds, penalties)
    soft_score, matched = probabilities(log_odds, penalties)
    there, back = counterparts(path, log_odds)
    return Alignment(
        a=a,
        b=b,
        score=max(score, 0.0),
        soft_score=soft_score,
        p_value=calibration.chance.p_value(score, *log_odds.shape),
        path=path * stride,
        match=matched,
        stride=stride,
        a_to_b=_all_frames(there, stride, len(a)),
        b_to_a=_all_frames(back, stride, len(b)),
    )


def counterparts(
    path: NDArray[np.int64], log_odds: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each frame of two videos is in the other one, by a path: (N,) and (M,), not falling, NaN: nowhere.

    A path matches every frame once at most, so that a slower video has frames to spare: of those between two matches
    (i, j) and (i', j'), each is compared with the frame of the other video that lies as far between j and j'. From
    both ends as many are carried along as add up to the most, and what is left in the middle, being less alike than by
    chance, has no counterpart: a pause is carried, another action is not. Before the first match and behind the last
    one frames are compared with that match's, and carried in the same way.

    Args:
        path: (L, 2), of a table of log-odds (N, M).
    """
    there, back = (np.full(length, np.nan) for length in log_odds.shape)
    if len(path):
        there[path[:, 0]], back[path[:, 1]] = path[:, 1], path[:, 0]
        _carry(there, path, log_odds)
        _carry(back, path[:, ::-1], log_odds.T)
    return there, back


def _carry(places: NDArray[np.float64], path: NDArray[np.int64], log_odds: NDArray[np.float32]) -> None:
    """Fills in the rows between the matches of a path, and a pause at its ends."""
    (first, opens), (last, closes) = path[0].tolist(), path[-1].tolist()
    before = _best_length(log_odds[:first, opens][::-1].astype(np.float64))
    places[first - before : first] = opens
    behind = _best_length(log_odds[last + 1 :, closes].astype(np.float64))
    places[last + 1 : last + 1 + behind] = closes
    for step in np.flatnonzero(np.diff(path[:, 0]) > 1):
        (i, j), (next_i, next_j) = path[step].tolist(), path[step + 1].tolist()
        skipped = np.arange(i + 1, next_i)
        partners = j + (skipped - i) * ((next_j - j) / (next_i - i))
        worth = log_odds[skipped, np.rint(partners).astype(np.int64)].astype(np.float64)
        head = _best_length(worth)
        tail = _best_length(worth[head:][::-1])
        is_carried = np.zeros(len(skipped), dtype=bool)
        is_carried[:head] = True
        is_carried[len(skipped) - tail :] = True
        places[skipped[is_carried]] = partners[is_carried]


def _best_length(worth: NDArray[np.float64]) -> int:
    """How many from the beginning add up to the most; none if nothing adds up to more than 0."""
    sums = np.concatenate([[0.0], np.cumsum(worth)])
    return len(sums) - 1 - int(np.argmax(sums[::-1])) if sums.max() > 0 else 0


def _all_frames(places: NDArray[np.float64], stride: int, num_frames: int) -> NDArray[np.float64]:
    """Counterparts of every `stride`-th frame -> of every frame: between two that have one, in between."""
    if stride == 1:
        return places
    frames = np.arange(num_frames) / stride
    below = np.floor(frames).astype(np.int64)
    above = np.minimum(below + 1, len(places) - 1)
    share = frames - below
    # A frame that is aligned itself does not ask the next one; behind the last one, it stands still.
    return stride * np.where(share > 0, places[below] * (1 - share) + places[above] * share, places[below])


def _number(place: float) -> float | None:
    return None if np.isnan(place) else float(place)


def _time_there(here: EmbeddedVideo, there: EmbeddedVideo, places: NDArray[np.float64], seconds: float) -> float | None:
    place = here.frame_at(seconds)
    assert here.seconds is not None
    if seconds < here.seconds[0] - SAME_S or (here.end is not None and seconds > here.end + SAME_S):
        return None
    first = int(place)
    found = places[first]
    if place > first and not np.isnan(places[first + 1]):
        found = found * (1 - (place - first)) + places[first + 1] * (place - first)
    if np.isnan(found):
        return None
    time = there.time_of(float(found))
    if time is None:
        there.frame_at(0.0)
    return time


def _gaps(
    video: Literal["a", "b"], here: EmbeddedVideo, places: NDArray[np.float64], back: NDArray[np.float64]
) -> list[Gap]:
    is_left = np.isnan(places)
    cuts = np.flatnonzero(np.diff(is_left.astype(np.int8))) + 1
    found = []
    for first, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(places)], strict=True):
        if not is_left[first]:
            continue
        kind: Kind = "skipped" if video == "a" else "inserted"
        at = places[first - 1] if first else places[stop] if stop < len(places) else None
        if at is None:
            kind = "unmatched"
        elif first == 0:
            kind = "lead_in"
        elif stop == len(places):
            kind = "lead_out"
        found.append(
            Gap(kind, video, first, stop, here.time_of(first), here.time_of(stop), None if at is None else float(at))
        )
    return found
