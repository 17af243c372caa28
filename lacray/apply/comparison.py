"""How a video deviates from a reference, phase by phase, in seconds: longer, skipped, repeated, inserted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lacray.apply.alignment import Alignment, Gap
from lacray.apply.embedded import EmbeddedVideo, NoClockError

SHORTEST = 0.4
"""Seconds; a shorter gap is a slip of the alignment, and counts for its phase's length alone."""
CERTAIN = 0.01
"""p below which what was inserted counts as a part of the reference that was done again."""


@dataclass(frozen=True)
class Phase:
    """A part of the reference."""

    name: str
    first: int
    stop: int
    """Its frames, `stop` exclusive."""


@dataclass(frozen=True)
class Deviation:
    """One phase of one video beside the reference's, in seconds."""

    video: str
    phase: str
    reference: float
    """How long it lasts in the reference."""
    matched: float
    """Of that, what the video has a counterpart of."""
    own: float
    """How long that counterpart lasts in the video."""
    skipped: float
    """Of the reference's phase, what the video has not."""
    repeated: float
    """What the video does once more of this phase, outside its counterpart."""
    inserted: float
    """What the video does within this phase that the reference has nowhere."""

    @property
    def longer(self) -> float:
        """By how much the counterpart lasts longer than what it is the counterpart of; below 0: shorter."""
        return self.own - self.matched

    @property
    def total(self) -> float:
        """All of it, whatever its kind."""
        return abs(self.longer) + self.skipped + self.repeated + self.inserted


def phases_of(labels: NDArray[np.int64] | None, names: Sequence[str], num_frames: int) -> list[Phase]:
    """The phases of a reference in order, a phase each time that it is done; all of it where it has no labels."""
    if labels is None or not (labels >= 0).any():
        return [Phase("all", 0, num_frames)]
    cuts = np.flatnonzero(np.diff(labels)) + 1
    edges = [0, *cuts.tolist(), len(labels)]
    found: list[Phase] = []
    counts: dict[str, int] = {}
    for first, stop in itertools.pairwise(edges):
        if labels[first] < 0:
            continue
        name = names[labels[first]]
        counts[name] = counts.get(name, 0) + 1
        found.append(Phase(name if counts[name] == 1 else f"{name} ({counts[name]})", first, stop))
    return found


def deviations(
    alignment: Alignment,
    phases: Sequence[Phase],
    align: Callable[[EmbeddedVideo, EmbeddedVideo], Alignment],
) -> list[Deviation]:
    """How `b` deviates from the reference `a` in each of the reference's phases.

    Args:
        align: of the same model; what was inserted is aligned once more, to see whether it is a phase done again.

    Raises:
        NoClockError: one of the videos has no frame times.
    """
    reference, video = alignment.a, alignment.b
    lasts, own_lasts = durations(reference), durations(video)
    is_there = ~np.isnan(alignment.a_to_b)
    places = alignment.b_to_a
    inserted = np.zeros(len(reference))
    repeated = np.zeros(len(reference))
    for gap in alignment.gaps:
        if gap.video != "b" or gap.at is None or (gap.seconds or 0.0) < SHORTEST:
            continue
        again = _again(alignment, gap, align)
        repeated += again
        if gap.kind != "inserted":
            continue  # what comes before and behind is no part of the process, unless it is done again
        inserted[min(int(gap.at), len(reference) - 1)] += max((gap.seconds or 0.0) - float(again.sum()), 0.0)
    found = []
    for phase in phases:
        inside = np.zeros(len(reference), dtype=bool)
        inside[phase.first : phase.stop] = True
        counterpart = (places >= phase.first - 0.5) & (places < phase.stop - 0.5)
        found.append(
            Deviation(
                video=video.name,
                phase=phase.name,
                reference=float(lasts[inside].sum()),
                matched=float(lasts[inside & is_there].sum()),
                own=float(own_lasts[counterpart].sum()),
                skipped=float(lasts[inside & ~is_there].sum()),
                repeated=float(repeated[inside].sum()),
                inserted=float(inserted[inside].sum()),
            )
        )
    return found


def durations(video: EmbeddedVideo) -> NDArray[np.float64]:
    """How long each frame is shown, (T,) seconds.

    Raises:
        NoClockError: nothing says it.
    """
    if video.seconds is None or video.end is None:
        raise NoClockError(
            f"{video.name}: has no frame times to be compared in seconds, as pictures and features have none; give it "
            "as a video file, beside its features where those are read"
        )
    return np.diff(np.append(video.seconds, video.end))


def _again(
    alignment: Alignment, gap: Gap, align: Callable[[EmbeddedVideo, EmbeddedVideo], Alignment]
) -> NDArray[np.float64]:
    """How long an inserted part does each frame of the reference once more, (N,) seconds."""
    video = alignment.b
    assert video.seconds is not None
    assert gap.end_seconds is not None
    part = EmbeddedVideo(
        video.name, video.embeddings[gap.first : gap.stop], video.seconds[gap.first : gap.stop], gap.end_seconds
    )
    found = align(alignment.a, part)
    seconds = np.zeros(len(alignment.a))
    if found.p_value > CERTAIN:
        return seconds
    is_there = ~np.isnan(found.b_to_a)
    np.add.at(seconds, np.rint(found.b_to_a[is_there]).astype(np.int64), durations(part)[is_there])
    return seconds
