"""Labels as the page shows them: the segments of each video, in frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacray.config import UserError
from lacray.data.labels import composed
from lacray.text import printable

LONGEST_NAME = 200


@dataclass(frozen=True)
class Mark:
    """A part of a video in one phase: frames `start` to `stop` - 1."""

    start: int
    stop: int
    phase: str


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
    name = composed(phase.strip()) if isinstance(phase, str) else ""
    if not name or len(name) > LONGEST_NAME or printable(name) != name:
        return f"a phase must have a name in one line, of {LONGEST_NAME} signs at most, got {phase!r}"
    return Mark(start, stop, name)
