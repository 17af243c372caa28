"""What other programs' label files hold, before it is known which videos they mean; shared by their readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lacray.data.labels import Segment

# Two segments overlap if they share more than this many seconds: less is rounding.
ROUNDING_S = 0.1
ALSO_TIER = "; label, compare and view: --tier NAME"
"""Where data.tier=NAME is a remedy."""


@dataclass(frozen=True)
class Track:
    """Segments of one video, as a label file names it."""

    media: tuple[str, ...]
    """What the file calls the video, the most telling first."""
    segments: list[Segment]
    else_media: str = ""
    """What the video may be called where those names are of none: as the label file itself."""


@dataclass
class Annotations:
    """What a label file holds."""

    tracks: list[Track] = field(default_factory=list)
    tiers: list[str] = field(default_factory=list)
    """What `data.tier` may name."""
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Labelled:
    """A video with its segments in seconds, for the writers."""

    name: str
    """Below the data set's folder."""
    path: Path
    seconds: float
    """How long it lasts."""
    rate: float
    """Frames a second; their median where that varies."""
    segments: Sequence[Segment]


Reader = Callable[[Path, str | None], Annotations]
"""A label file, and the tier that is wanted, None: the only one."""


def merged(tracks: Sequence[Track]) -> list[Track]:
    """The tracks with those of one video put together, in order of time."""
    found: dict[tuple[str, ...], Track] = {}
    for track in tracks:
        known = found.get(track.media)
        found[track.media] = replace(track, segments=[*known.segments, *track.segments]) if known else track
    return [replace(t, segments=sorted(t.segments, key=lambda s: (s.start, s.end))) for t in found.values()]


def overlap(segments: Sequence[Segment]) -> tuple[Segment, Segment] | None:
    """The first two segments that share time, of some in order."""
    last: Segment | None = None
    for segment in segments:
        if last is not None and last.end - segment.start > ROUNDING_S:
            return last, segment
        if last is None or segment.end > last.end:
            last = segment
    return None


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first names of some, in quotes."""
    told = ", ".join(map(repr, names[:most]))
    return told + (f", and {len(names) - most} more" if len(names) > most else "")
