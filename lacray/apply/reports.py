"""Alignments, labels and deviations as tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lacray.apply.alignment import Alignment
from lacray.apply.comparison import Deviation
from lacray.apply.embedded import EmbeddedVideo
from lacray.apply.files import refused, write_csv
from lacray.apply.retrieval import Moment
from lacray.apply.transfer import Carried
from lacray.config import UserError
from lacray.data import boris, elan
from lacray.data.annotated import Labelled
from lacray.data.labels import Segment
from lacray.data.plain import tier_files
from lacray.data.tables import find_table, text_of

TABLE = "segments.csv"
BORIS, ELAN = "labels.boris", "elan"
MATCHES_TABLE, GAPS_TABLE = "matches.csv", "gaps.csv"
MATCHES = ("video", "reference_frame", "reference_seconds", "frame", "seconds", "probability")
GAPS = ("video", "kind", "of", "first_frame", "end_frame", "start_seconds", "end_seconds")
SEGMENTS = ("video", "start_frame", "end_frame", "start_seconds", "end_seconds", "phase", "confidence")
MOMENTS = ("rank", "video", "frame", "seconds", "distance")
DEVIATIONS = (
    "rank",
    "video",
    "phase",
    "deviation_seconds",
    "longer_seconds",
    "skipped_seconds",
    "repeated_seconds",
    "inserted_seconds",
    "reference_seconds",
    "seconds",
)


def write_alignments(folder: Path, alignments: Sequence[Alignment]) -> None:
    """matches.csv: where each frame of the reference is in each video; gaps.csv: what either has alone.

    `frame` has decimals between two frames, `probability` is empty where a frame is carried between two matches.
    """
    write_csv(folder / MATCHES_TABLE, MATCHES, _matches(alignments))
    write_csv(folder / GAPS_TABLE, GAPS, _gaps(alignments))


def _matches(alignments: Iterable[Alignment]) -> Iterator[tuple[object, ...]]:
    for found in alignments:
        probability = dict(zip(found.path[:, 0].tolist(), found.probability.tolist(), strict=True))
        for frame in np.flatnonzero(~np.isnan(found.a_to_b)).tolist():
            there = float(found.a_to_b[frame])
            number: object = int(there) if there.is_integer() else there
            times = found.a.time_of(frame), found.b.time_of(there)
            yield found.b.name, frame, times[0], number, times[1], probability.get(frame)


def _gaps(alignments: Iterable[Alignment]) -> Iterator[tuple[object, ...]]:
    for found in alignments:
        for gap in found.gaps:
            owner = "reference" if gap.video == "a" else "video"
            yield found.b.name, gap.kind, owner, gap.first, gap.stop, gap.start_seconds, gap.end_seconds


def write_segments(
    path: Path,
    videos: Mapping[str, EmbeddedVideo],
    segments: Mapping[str, Sequence[Carried]],
    phases: Mapping[str, Sequence[str]],
) -> None:
    """segments.csv, as data sets have it, with a confidence for each segment; one that was there stays as a backup.

    Args:
        phases: the names of the phases, by video.
    """
    rows = [
        (
            name,
            own.first,
            own.stop,
            videos[name].time_of(own.first),
            videos[name].time_of(own.stop),
            phases[name][own.phase],
            own.confidence,
        )
        for name, found in segments.items()
        for own in found
    ]
    write_csv(path, SEGMENTS, rows, keeps=True)


def write_annotations(
    folder: Path,
    videos: Mapping[str, EmbeddedVideo],
    segments: Mapping[str, Sequence[Carried]],
    phases: Mapping[str, Sequence[str]],
) -> list[Path]:
    """The same for people's annotation programs, of videos that are there: labels.boris; for ELAN a NAME.mp4.eaf each.

    What was there, and is another, stays as a backup.

    Args:
        phases: the names of the phases, by video.

    Returns:
        What was written.

    Raises:
        UserError: it cannot be written.
    """
    found = []
    for name, own in segments.items():
        video = videos[name]
        if not own or video.film is None or video.seconds is None or video.end is None:
            continue
        lasting = float(np.median(np.diff(video.seconds))) if len(video) > 1 else video.end - float(video.seconds[0])
        parts = [
            Segment(
                video.time_of(part.first) or 0.0, video.time_of(part.stop) or 0.0, phases[name][part.phase], True, ""
            )
            for part in own
        ]
        found.append(Labelled(name, Path(video.film), video.end, 1 / max(lasting, 1e-3), parts))
    if not found:
        return []
    paths = [folder / BORIS]
    with refused(paths[0]):
        boris.write(paths[0], found)
    for labelled in found:
        paths.append(elan.path_of(folder / ELAN, labelled.name))
        with refused(paths[-1]):
            elan.write(paths[-1], labelled)
    return paths


def check_place(out: Path, root: Path) -> None:
    """Whether labels that are carried may be written to a folder: beside people's own, and not among them.

    Args:
        root: of the data set whose labels are carried.

    Raises:
        UserError: they would take the place of its labels or of somebody else's, or be read as its labels.
    """
    own, other = Path(os.path.realpath(root)), Path(os.path.realpath(out))
    if own == other:
        raise UserError(f"--out: must be another folder than the data set, whose labels are its own, got {out}")
    if own in other.parents and tier_files(own):
        raise UserError(
            f"--out: must lie outside of the data set, which reads all files of ELAN and BORIS in it, got {out}"
        )
    if any(path != other / BORIS and other / ELAN not in path.parents for path in tier_files(other)):
        raise UserError(f"--out: {out} has label files, in whose place a {TABLE} would count; give another folder")
    table = find_table(out, "segments")
    if table is not None and (table.name != TABLE or text_of(table).split("\n")[0] != ",".join(SEGMENTS)):
        raise UserError(f"--out: {table} was not written by this command, and may be labels; give another folder")


def write_moments(path: Path, found: Sequence[Moment]) -> None:
    """moments.csv: the nearest first."""
    rows = [(place + 1, own.video, own.frame, own.seconds, own.distance) for place, own in enumerate(found)]
    write_csv(path, MOMENTS, rows)


def ranked(found: Iterable[Deviation]) -> list[Deviation]:
    """The greatest deviations first."""
    return sorted(found, key=lambda own: (-own.total, own.video, own.phase))


def write_deviations(path: Path, found: Sequence[Deviation]) -> None:
    """deviations.csv: a row a video and phase, the greatest deviation first."""
    rows = [
        (
            place + 1,
            own.video,
            own.phase,
            own.total,
            own.longer,
            own.skipped,
            own.repeated,
            own.inserted,
            own.reference,
            own.own,
        )
        for place, own in enumerate(ranked(found))
    ]
    write_csv(path, DEVIATIONS, rows)
