"""What is odd about a data set, and may be meant: to be said before anything starts, not to be refused."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from lacray.data.containers import UnreadableVideoError
from lacray.data.sources import source_of
from lacray.data.videoset import Video, VideoSet, by_action, phases_in


def oddities(videos: VideoSet) -> list[str]:
    """A line for each thing that makes numbers of these videos mean less than they seem to."""
    told = []
    leaks = [group for group in same_content(videos.training + videos.val) if len({v.split for v in group}) > 1]
    if leaks:
        named = "; ".join(" = ".join(f"{video.name} ({video.split})" for video in group) for group in leaks[:3])
        more = f"; and {len(leaks) - 3} more" if len(leaks) > 3 else ""
        told.append(f"the same video in both splits, so that what is learned is tested: {named}{more}; remove copies")
    if videos.has_labels:
        for split, own, other in (("training", videos.training, videos.val), ("val", videos.val, videos.training)):
            missing = [
                f"{action}: {videos.phases[action][phase]}" if action else videos.phases[action][phase]
                for action, alike in by_action(own).items()
                for phase in _lacking(alike, by_action(other).get(action, []))
            ]
            if missing:
                told.append(f"phases in the {split} videos alone, which no metric can compare: {', '.join(missing)}")
        unlabelled = [v for v in videos.training + videos.val if not v.is_labelled]
        if unlabelled:
            told.append(
                f"{len(unlabelled)} of {len(videos.training + videos.val)} videos have no labels ({unlabelled[0].name}"
                f"{', ...' if len(unlabelled) > 1 else ''}): trained on, left out of metrics that need them"
            )
    return told


def _lacking(own: list[Video], other: list[Video]) -> list[int]:
    """Phases that some videos have and others, which have labels too, lack."""
    return sorted(phases_in(own) - phases_in(other)) if phases_in(other) else []


def same_content(videos: Iterable[Video]) -> list[list[Video]]:
    """Groups of videos whose content is the same, as far as its size, beginning and end tell."""
    by_extent: dict[int, list[Video]] = {}
    for video in videos:
        # What cannot be read any more is like nothing else.
        with suppress(UnreadableVideoError):
            by_extent.setdefault(source_of(video.path).extent(), []).append(video)
    groups: list[list[Video]] = []
    for alike in by_extent.values():
        if len(alike) < 2:
            continue
        by_content: dict[bytes, list[Video]] = {}
        for video in alike:
            with suppress(UnreadableVideoError):
                by_content.setdefault(source_of(video.path).digest(), []).append(video)
        groups += [group for group in by_content.values() if len(group) > 1]
    return groups
