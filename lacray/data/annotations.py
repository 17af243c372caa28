"""Label files of other programs in a data set's folder -> segments of its videos."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from lacray.data import boris, elan
from lacray.data.annotated import ALSO_TIER, Annotations, Reader, Track, listed, overlap
from lacray.data.discovery import find_files
from lacray.data.labels import Segment
from lacray.data.listing import Listing
from lacray.data.names import Names
from lacray.data.videoset import DataError

LABELS = "labels"
"""A folder that may hold such files beside the videos."""
DOCUMENTS: dict[str, Reader] = {boris.SUFFIX: boris.read, elan.SUFFIX: elan.read}
TABLES = frozenset({".csv", ".tsv", ".txt"})
LOOKED_AT = 1 << 16
"""Bytes of a table that tell what it is."""


def label_files(root: Path, ignored: Collection[str] = ()) -> dict[Path, Reader]:
    """The label files of a folder, each with what reads it.

    Projects of BORIS and documents of ELAN count wherever they lie; their tables in the folder itself, and in LABELS.

    Args:
        ignored: names of tables in the folder that are something else, in lower case.
    """
    found = {path: DOCUMENTS[path.suffix.lower()] for path in find_files(root, DOCUMENTS).paths.values()}
    tables = [path for path in sorted(root.iterdir()) if path.is_file() and path.name.lower() not in ignored]
    if (root / LABELS).is_dir():
        tables += find_files(root / LABELS, TABLES).paths.values()
    for path in tables:
        is_hidden = path.name.startswith((".", "~"))
        reader = None if is_hidden or path.suffix.lower() not in TABLES else _table_reader(path)
        if reader is not None:
            found[path] = reader
    return found


def _table_reader(path: Path) -> Reader | None:
    try:
        with path.open("rb") as file:
            # UTF-16 is every second byte of it, as far as headers go.
            head = file.read(LOOKED_AT).replace(b"\0", b"").decode("utf-8", errors="replace").lower()
    except OSError:
        return None
    if elan.is_table(head):
        return elan.read_export
    return boris.read_events if boris.is_table(head) else None


def read_labels(
    files: dict[Path, Reader], names: Names, tier: str | None, listing: Listing
) -> dict[str, list[Segment]]:
    """The segments of every video that label files know; what is wrong or assumed goes to the listing.

    Args:
        names: of the videos.
        tier: of several tiers, subjects or categories, the one that is read; None: there must be one.
    """
    segments: dict[str, list[Segment]] = {}
    source: dict[str, Path] = {}
    tiers: list[str] = []
    has_tracks = False
    for path, reader in files.items():
        try:
            found = reader(path, tier)
        except DataError as error:
            listing.label_problems += error.problems
            continue
        listing.notes += found.notes
        listing.label_problems += found.problems
        tiers += found.tiers
        has_tracks = has_tracks or any(track.segments for track in found.tracks)
        for video, own in _by_video(path, found, names, listing).items():
            if video in source:
                listing.label_problems.append(
                    f"{path}: {video} has labels in {source[video]} too; keep one of the two files"
                )
                continue
            source[video] = path
            if own:
                segments[video] = own
    if tier is not None and not has_tracks and not listing.label_problems:
        listing.label_problems.append(
            f"data.tier: must be a tier, a subject or a category of the label files, got {tier!r}; they have "
            f"{listed(sorted(set(tiers))) or 'none'}"
        )
    return segments


def _by_video(path: Path, found: Annotations, names: Names, listing: Listing) -> dict[str, list[Segment]]:
    """The segments of one file by the videos that it means."""
    segments: dict[str, list[Segment]] = {}
    named: dict[str, str] = {}
    unknown: list[str] = []
    for track in found.tracks:
        videos, spelled = _meant(track, names)
        if not videos:
            unknown.append(spelled)
        elif len(videos) > 1:
            listing.label_problems.append(f"{path}: {spelled!r} may be {' or '.join(videos[:3])}; name its folder too")
        elif videos[0] in named:
            listing.label_problems.append(
                f"{path}: {named[videos[0]]!r} and {spelled!r} would both be {videos[0]}; keep one of them"
            )
        else:
            named[videos[0]] = spelled
            both = overlap(track.segments)
            if both is None:
                segments[videos[0]] = track.segments
                continue
            of = (
                f"; data.tier=NAME reads one of {listed(found.tiers)}{ALSO_TIER}"
                if found.tiers
                else "; keep one of the two"
            )
            first, second = both
            told = [f"{segment.phase!r} ({segment.start:g} to {segment.end:g} s)" for segment in (first, second)]
            listing.label_problems.append(
                f"{second.where}: {videos[0]}: {told[0]} and {told[1]} overlap, and a frame has one phase{of}"
            )
    if unknown and len(unknown) == len(found.tracks):
        listing.label_problems.append(
            f"{path}: none of its videos is in this folder: {listed(unknown)}; the first video here is "
            f"{min(names.videos, default='none')}"
        )
    elif unknown:
        listing.notes.append(f"{path}: {len(unknown)} of its videos are not in this folder: {listed(unknown)}")
    _say_assumed(path, named, names, listing)
    return segments


def _say_assumed(path: Path, named: dict[str, str], names: Names, listing: Listing) -> None:
    """Name the videos that were found by less than what the file calls them."""
    assumed = [
        (video, spelled) for video, spelled in named.items() if names.at(spelled) is None and not names.find(spelled)
    ]
    if assumed:
        video, spelled = assumed[0]
        more = f", and {len(assumed) - 1} more so" if len(assumed) > 1 else ""
        listing.notes.append(f"{path}: {spelled!r} is taken for {video}, by its name or the label file's alone{more}")


def _meant(track: Track, names: Names) -> tuple[list[str], str]:
    """The videos that a track may be of, and by which of its names; its folders may be another machine's."""
    for spelled in track.media:
        if (video := names.at(spelled)) is not None:
            return [video], spelled
    for spelled in track.media:
        if videos := names.find(spelled):
            return videos, spelled
    for spelled in track.media:
        if videos := names.find(_last(spelled)):
            return videos, spelled
    own = track.else_media
    return names.find(own) or names.find(_last(own)) if own else [], (*track.media, own)[0]


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
