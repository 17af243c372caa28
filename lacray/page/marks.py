"""Labels of the page: from the frames of a data set to segments, and back to segments.csv, BORIS and ELAN."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacray.config import UserError
from lacray.data import boris, elan
from lacray.data.annotated import Labelled
from lacray.data.annotations import LABELS
from lacray.data.files import keep_before, write_whole
from lacray.data.labels import COLUMNS, Segment
from lacray.text import printable

TABLE = "segments.csv"
LONGEST_NAME = 200
FORMATS = ("csv", "boris", "elan")


@dataclass(frozen=True)
class Mark:
    """A part of a video in one phase: frames `start` to `stop` - 1."""

    start: int
    stop: int
    phase: str


@dataclass(frozen=True)
class Marked:
    """A video with its marks, and what the writers want to know of it."""

    name: str
    path: Path
    times: NDArray[np.float64]
    """(n,) seconds."""
    end: float
    rate: float
    marks: Sequence[Mark]


class ChangedError(UserError):
    """The labels on disk are no longer those that the page began with."""


def marks_of(labels: NDArray[np.int64] | None, phases: Sequence[str]) -> list[Mark]:
    """The runs of frames in one phase, of a video's labels (n,), -1 for none."""
    if labels is None:
        return []
    edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [Mark(start, stop, phases[labels[start]]) for start, stop in pairwise(edges) if labels[start] >= 0]


def read_marks(given: Any, lengths: Mapping[str, int]) -> dict[str, list[Mark]]:
    """Marks as the page sends them: `{video: [[start, stop, phase], ...]}`.

    Args:
        lengths: frames of each video by name.

    Raises:
        UserError: all that is wrong with them.
    """
    if not isinstance(given, dict):
        raise UserError("labels: must be a list of segments for each video")
    problems: list[str] = []
    found: dict[str, list[Mark]] = {}
    for name, own in given.items():
        if name not in lengths or not isinstance(own, list):
            problems.append(f"labels: no such video, {name!r}")
            continue
        marks = []
        for one in own:
            mark = _read_mark(one, lengths[name])
            if isinstance(mark, Mark):
                marks.append(mark)
            else:
                problems.append(f"{name}: {mark}")
        found[name] = sorted(marks, key=lambda mark: mark.start)
        for earlier, later in pairwise(found[name]):
            if later.start < earlier.stop:
                problems.append(f"{name}: segments overlap at frames {later.start}..{earlier.stop - 1}")
    if problems:
        raise UserError(problems)
    return found


def _read_mark(given: Any, length: int) -> Mark | str:
    if not isinstance(given, list) or len(given) != 3:
        return f"a segment must be [start, stop, phase], got {given!r}"
    start, stop, phase = given
    if not all(isinstance(edge, int) and not isinstance(edge, bool) for edge in (start, stop)):
        return f"a segment must begin and end at whole frames, got {start!r} and {stop!r}"
    if not 0 <= start < stop <= length:
        return f"must be 0 <= start < stop <= {length}, got {start} and {stop}"
    name = phase.strip() if isinstance(phase, str) else ""
    if not name or len(name) > LONGEST_NAME or printable(name) != name:
        return f"a phase must have a name in one line, of {LONGEST_NAME} signs at most, got {phase!r}"
    return Mark(start, stop, name)


def fingerprint(root: Path) -> str:
    """What segments.csv holds now; empty where there is none."""
    try:
        return hashlib.sha256((root / TABLE).read_bytes()).hexdigest()
    except OSError:
        return ""


def save(
    root: Path,
    videos: Sequence[Marked],
    formats: Sequence[str],
    *,
    known: str,
    others: Mapping[str, Sequence[Mark]] | None = None,
) -> list[Path]:
    """Write labels: segments.csv always, for BORIS and ELAN where asked; each file appears when it is whole.

    A segments.csv that was there stays beside the new one, as segments.csv.TIME.bak.

    Args:
        formats: some of FORMATS.
        known: `fingerprint` of the segments.csv that the labels began with.
        others: marks of videos that are not on the page, which stay in segments.csv.

    Returns:
        What was written.

    Raises:
        ChangedError: segments.csv is another one now.
        UserError: it cannot be written, or an unknown format.
    """
    wrong = [name for name in formats if name not in FORMATS]
    if wrong:
        raise UserError(f"format: must be one of {', '.join(FORMATS)}, got {', '.join(map(repr, wrong))}")
    if fingerprint(root) != known:
        raise ChangedError(
            f"{root / TABLE}: was changed by something else since the page has read it; reload the page, or save all "
            "the same: what is there is kept as a backup"
        )
    labelled = [video for video in videos if video.marks]
    try:
        rows = {**(others or {}), **{video.name: video.marks for video in labelled}}
        written = [_save_table(root / TABLE, rows)]
        if "boris" in formats:
            boris.write(root / LABELS / "lacray.boris", [_in_seconds(video) for video in labelled])
            written.append(root / LABELS / "lacray.boris")
        if "elan" in formats:
            for video in labelled:
                path = root / LABELS / f"{video.name.removeprefix('videos/')}.eaf"
                elan.write(path, _in_seconds(video))
                written.append(path)
    except OSError as error:
        raise UserError(f"{error.filename or root}: cannot be written ({error.strerror})") from error
    return written


def _save_table(path: Path, marks: Mapping[str, Sequence[Mark]]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name in sorted(marks):
        writer.writerows((name, mark.start, mark.stop, mark.phase) for mark in marks[name])
    content = text.getvalue().encode()
    keep_before(path, content)
    write_whole(path, content)
    return path


def _in_seconds(video: Marked) -> Labelled:
    edges = [*video.times.tolist(), video.end]
    segments = [Segment(edges[mark.start], edges[mark.stop], mark.phase, True, "") for mark in video.marks]
    return Labelled(video.name, video.path, video.end, video.rate, segments)
