"""Segments of videos, by frame or by second -> a phase for every frame."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacray.data.arrays import load_array
from lacray.data.facts import Clock
from lacray.data.tables import Row, Table

COLUMNS = ("video", "start_frame", "end_frame", "phase")
FRAMES = ("start_frame", "end_frame")
SECONDS = ("start_seconds", "end_seconds")
# What other programs call seconds.
ALSO_SECONDS = tuple((f"start_{name}", f"end_{name}") for name in ("time", "s", "sec", "second", "(s)", "time_(s)"))
KNOWN = frozenset({*COLUMNS, *SECONDS, *(name for pair in ALSO_SECONDS for name in pair)})
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d*)?)")
# One thousand, or one and three places: 1,000 and 1.000 are either, by who has written them.
THOUSANDS = re.compile(r"\d{1,3}([.,' \u00a0\u202f]\d{3})+")
SAME_S = 0.5e-3 + 1e-9
"""Seconds. Times are written to the millisecond at best: two that are no further apart are the same."""


MOST_PHASES = 1000
"""Of an action. A label beyond is a mark for something else, or damage: each phase below it would get a name."""

MOST_MISSING = 0.1
"""Share of a video's frames by which the number of its labels may differ: more is no rounding."""


@dataclass(frozen=True)
class Segment:
    """A part of a video, end exclusive, in frames or in seconds from where players begin to count."""

    start: float
    end: float
    phase: str
    in_seconds: bool
    where: str
    """File and line."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "phase", composed(self.phase))


def composed(text: str) -> str:
    """A name in Unicode's composed form: both forms look alike, and are one."""
    return unicodedata.normalize("NFC", text)


def time_columns(table: Table) -> tuple[tuple[str, str], bool] | None:
    """The columns that hold starts and ends, and whether they are seconds; frames go before seconds; None: neither."""
    for pair in (FRAMES, SECONDS, *ALSO_SECONDS):
        if set(pair) <= set(table.columns):
            return pair, pair != FRAMES
    return None


def read_segment(row: Row, table: Table, columns: tuple[str, str], in_seconds: bool) -> Segment | str:
    """A row as a segment, or what is wrong with it."""
    where = f"{table.path}:{row.line}"
    start, end = columns
    given = f"{row.cells[start]!r} and {row.cells[end]!r}"
    read = seconds_of if in_seconds else _number_of
    numbers = [read(row.cells[name], table.separator) for name in columns]
    if not in_seconds and any(THOUSANDS.fullmatch(row.cells[name]) for name in columns):
        return f"{where}: {start} and {end} must be integers without marks between their digits, got {given}"
    if numbers[0] is None or numbers[1] is None or not (in_seconds or all(float(n or 0).is_integer() for n in numbers)):
        rule = "seconds, as 83.5 or 1:23.5" if in_seconds else "integers"
        return f"{where}: {start} and {end} must be {rule}, got {given}"
    if not 0 <= numbers[0] < numbers[1]:
        got = f"{numbers[0]:g} and {numbers[1]:g}"
        return f"{where}: must be 0 <= {start} < {end}, got {got}"
    if not row.cells["phase"]:
        return f"{where}: phase must be named, got nothing; leave frames without a phase out of the table"
    return Segment(numbers[0], numbers[1], row.cells["phase"], in_seconds, where)


def _number_of(text: str, separator: str) -> float | None:
    # A comma within a number is a decimal one only where it separates nothing else.
    text = text if separator == "," else text.replace(",", ".")
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) and "_" not in text else None


def seconds_of(text: str, separator: str = ",") -> float | None:
    """A time as tables have it, `83.5` or `1:23.5`, in seconds; None where it is none.

    Args:
        separator: of the table's columns; where it is no comma, a comma may be a decimal one.
    """
    found = CLOCK.fullmatch(text if separator == "," else text.replace(",", "."))
    if found is None:
        return _number_of(text, separator)
    hours, minutes, seconds = found.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds)


def phase_order(segments: Iterable[Sequence[Segment]]) -> list[str]:
    """Phases by their mean place in the videos that have them: the order of the process."""
    places: dict[str, list[float]] = {}
    for own in segments:
        last = max(segment.end for segment in own)
        for segment in own:
            places.setdefault(segment.phase, []).append((segment.start + segment.end) / 2 / last)
    return sorted(places, key=lambda phase: (float(np.mean(places[phase])), phase))


def frame_labels(
    name: str, segments: Sequence[Segment], phases: Sequence[str], num_frames: int, clock: Clock | None
) -> tuple[NDArray[np.int64], list[str]]:
    """The phase of each frame, -1 where it has none, and what is wrong with the segments.

    A frame is in a segment of seconds if start <= its time < end, to the millisecond. Rounding is forgiven in seconds:
    an end up to one frame behind what the file lasts, and the last frame of a segment where the next begins with it.

    Args:
        name: of the video, for messages.
        segments: its own.
        phases: all, in order.
        num_frames: of the video.
        clock: its frames' times; needed for seconds.

    Returns:
        (num_frames,) and the problems, a line each.
    """
    labels = np.full(num_frames, -1, dtype=np.int64)
    problems: list[str] = []
    # Frames of the segment before.
    begun = end = 0
    for segment in sorted(segments, key=lambda segment: segment.start):
        if segment.in_seconds:
            assert clock is not None
            first, stop = np.searchsorted(clock.times, np.array([segment.start, segment.end]) - SAME_S).tolist()
            if segment.end > clock.end + clock.frame + 2 * SAME_S:
                problems.append(
                    f"{segment.where}: {name}: labels must not be longer than the video, got end {segment.end:g} s "
                    f"for {clock.end:.3f} s"
                )
            elif first == stop:
                problems.append(
                    f"{segment.where}: {name}: a segment must hold a frame, got none from {segment.start:g} to "
                    f"{segment.end:g} s"
                )
        else:
            first, stop = int(segment.start), int(segment.end)
            if stop > num_frames:
                problems.append(
                    f"{segment.where}: {name}: labels must not be longer than the video, got end_frame {stop} for "
                    f"{num_frames} frames"
                )
        if begun < first == end - 1 and segment.in_seconds:
            end = first
        if first < end:
            problems.append(f"{segment.where}: {name}: segments overlap at frames {first}..{stop - 1}")
        begun, end = (first, stop) if stop > end else (begun, end)
        labels[first:stop] = phases.index(segment.phase)
    return labels, problems


def integers_of(path: Path) -> NDArray[np.int64] | str:
    """The labels that an array on disk holds, or what is wrong with it."""
    try:
        return as_integers(load_array(path))
    except (OSError, ValueError, EOFError) as error:
        return f"is no array ({error})"


def as_integers(values: Any) -> NDArray[np.int64] | str:
    """Labels as they are, whatever holds them; or what is wrong with them."""
    try:
        given = np.asarray(values)
        with np.errstate(invalid="ignore"):
            labels = given.astype(np.int64)
    except (TypeError, ValueError, OverflowError):
        return f"must be integers, got {type(values).__name__}"
    if given.dtype.kind not in "iufb" or max(labels.shape, default=0) != labels.size or (labels != given).any():
        return f"must be one row of integers, got {given.dtype} of shape {given.shape}"
    if labels.size and not -1 <= labels.min() <= labels.max() < MOST_PHASES:
        wrong = labels.min() if labels.min() < -1 else labels.max()
        return f"must be -1 (no phase) or the number of a phase, 0..{MOST_PHASES - 1}, got {wrong}"
    return labels.reshape(-1)


def spread(labels: NDArray[np.int64], num_frames: int) -> NDArray[np.int64] | None:
    """A label for each frame where there are a few labels more or less than frames: evenly, as CARL does.

    Returns:
        (num_frames,); None where more than MOST_MISSING of them are missing or too many.
    """
    if abs(len(labels) - num_frames) > MOST_MISSING * num_frames:
        return None
    return labels[np.arange(num_frames) * len(labels) // num_frames]


def progress_of(path: Path, num_frames: int) -> NDArray[np.float32]:
    """Exact progress of a rendered video, (num_frames,).

    Raises:
        ValueError: the file holds none of this video.
    """
    try:
        progress = load_array(path)
    except (OSError, EOFError) as error:
        raise ValueError(f"is no array ({error})") from error
    if not isinstance(progress, np.ndarray) or progress.shape != (num_frames,):
        raise ValueError(f"must be ({num_frames},), got {np.shape(progress)}")
    return progress
