"""Labels of BORIS (Behavioral Observation Research Interactive Software): its projects, and its tables of events.

NAME.boris                  a project, JSON: observations, each of media files that are played one after the other
tabular events, CSV/TSV     a line for each START, STOP and POINT
aggregated events, CSV/TSV  a line for each state, with its start and its stop

State events become segments, named by their behaviour. Point events have no length: they are counted and said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from lacray.data.annotated import Annotations, Labelled, Track, listed, merged
from lacray.data.files import write_kept
from lacray.data.labels import Segment, seconds_of
from lacray.data.tables import Row, Table, read_table, text_of
from lacray.data.videoset import DataError

SUFFIX = ".boris"
FORMAT = "7.0"
PLAYER = "1"
"""The player whose media are labelled: the others show the same time from elsewhere, by offsets of their own."""
FOCAL = "No focal subject"

MEDIA = ("media_file_name", "media_file_path", "media_file")
STARTS, STOPS = ("start_(s)", "start"), ("stop_(s)", "stop")
KINDS = ("behavior_type", "status")
COLUMNS = frozenset(
    {
        *MEDIA,
        *STARTS,
        *STOPS,
        *KINDS,
        *("observation_id", "subject", "behavior", "behavioral_category", "modifiers", "modifier_1", "modifier_#1"),
        *("time", "time_offset_(s)", "source", "media_duration_(s)", "total_length", "duration_(s)"),
    }
)
NO_MEDIA = ("", "na", "live", "not found")
WRITTEN = re.compile(rb'"(project_)?date": "[^"]*"')
"""When a project was written."""


@dataclass
class _Observation:
    """One observation: its events, and the files that they were seen in."""

    name: str
    where: str
    files: list[str] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    """Seconds of each file but the last one."""
    offset: float = 0.0
    """What is added to the time of the first file to give that of the events."""
    states: list[_State] = field(default_factory=list)
    points: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _State:
    start: float
    stop: float
    behaviour: str
    subject: str
    category: str
    where: str


@dataclass(frozen=True)
class _Event:
    time: float
    subject: str
    behaviour: str
    category: str
    modifiers: str
    kind: str
    """START, STOP, POINT; empty where the order tells."""
    where: str


# ---------------------------------------------------------------------------------------------------------------------
# Projects.


class _Behaviour(BaseModel):
    code: str
    type: str
    category: str = ""


class _MediaInfo(BaseModel):
    length: dict[str, FiniteFloat | None] = {}


class _Recorded(BaseModel):
    type: str
    # A live observation has an empty list here.
    file: dict[str, list[str]] | list[Any] = []
    events: list[list[Any]] = []
    time_offset: FiniteFloat | None = Field(0.0, alias="time offset")
    media_info: _MediaInfo = _MediaInfo()
    media_creation_date_as_offset: bool = False


class _Project(BaseModel):
    behaviors_conf: dict[str, _Behaviour]
    observations: dict[str, _Recorded]


def read(path: Path, tier: str | None = None) -> Annotations:
    """The segments of a BORIS project.

    Args:
        tier: of several subjects or behavioural categories, the one whose events count.

    Raises:
        DataError: it is none.
    """
    try:
        content = json.loads(text_of(path))
        project = _Project.model_validate(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no project of BORIS ({_reason(error)}); save it anew from BORIS") from error
    found = Annotations()
    observations = [
        one for name, recorded in project.observations.items() if (one := _recorded(path, name, recorded, found))
    ]
    known = {behaviour.code: behaviour for behaviour in project.behaviors_conf.values()}
    for one in observations:
        _fill(one, list(_events(one, project.observations[one.name].events, known, found)), found)
    _finish(path, observations, tier, found)
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return "too deep" if isinstance(error, RecursionError) else str(error)


def _recorded(path: Path, name: str, recorded: _Recorded, found: Annotations) -> _Observation | None:
    """An observation of a project without its events; None where it is of no video."""
    where = f"{path}: observation {name!r}"
    players = recorded.file if isinstance(recorded.file, dict) else {}
    files = players.get(PLAYER, [])
    if recorded.type != "MEDIA" or not files:
        found.notes.append(f"{where}: is of no video file ({recorded.type.lower()}), left out")
        return None
    if recorded.media_creation_date_as_offset:
        found.problems.append(
            f"{where}: counts from when its media were made; export it with times from the beginning of the media"
        )
        return None
    others = [file for player, own in players.items() if player != PLAYER for file in own]
    if others:
        found.notes.append(f"{where}: labels the video of player 1; not read for {listed(others)} of other players")
    given = [recorded.media_info.length.get(file) for file in files]
    lengths = _lengths(files, given)
    if lengths is None:
        rule = "must have a length for each file after which others follow"
        found.problems.append(f"{where}: {rule}, got {given[:-1]} seconds; open it anew in BORIS")
        return None
    return _Observation(name, where, files, lengths, recorded.time_offset or 0.0)


def _lengths(files: Sequence[str], given: Sequence[float | None]) -> list[float] | None:
    """The lengths of files after which others follow; None where not all of them have one."""
    wanted = max(len(files) - 1, 0)
    lengths = [length for length in given[:wanted] if length is not None and length > 0]
    return lengths if len(lengths) == wanted else None


def _events(
    one: _Observation, events: Sequence[Sequence[Any]], known: dict[str, _Behaviour], found: Annotations
) -> Iterator[_Event]:
    for number, event in enumerate(events):
        where = f"{one.where}, event {number + 1}"
        fields = [*event, "", "", "", ""][:4]
        time, subject, code, modifiers = fields
        if isinstance(time, bool) or not isinstance(time, int | float) or not abs(time) < 1e9:
            found.problems.append(f"{where}: must have a time in seconds, got {time!r}")
        elif not isinstance(code, str) or code not in known:
            found.problems.append(f"{where}: must be a behaviour of the project, got {code!r}")
        else:
            behaviour = known[code]
            kind = "POINT" if behaviour.type.lower().startswith("point") else ""
            yield _Event(float(time), str(subject), code, behaviour.category, str(modifiers), kind, where)


def _fill(one: _Observation, events: list[_Event], found: Annotations) -> None:
    """Pair the events of an observation into states: START and STOP of one subject, behaviour and modifier by turns."""
    running: dict[tuple[str, str, str], _Event] = {}
    for event in sorted(events, key=lambda event: event.time):
        if event.kind == "POINT":
            one.points.append(event.behaviour)
            continue
        key = (event.subject, event.behaviour, event.modifiers)
        begun = running.pop(key, None)
        if event.kind and (event.kind == "STOP") != (begun is not None):
            has = "has begun already" if begun else "has not begun"
            found.problems.append(
                f"{event.where}: {event.kind} of {event.behaviour!r} at {event.time:g} s, which {has}"
            )
        elif begun is None:
            running[key] = event
        else:
            one.states.append(
                _State(begun.time, event.time, event.behaviour, event.subject, event.category, begun.where)
            )
    for event in running.values():
        found.problems.append(
            f"{event.where}: {event.behaviour!r} begins at {event.time:g} s and does not end; end it in BORIS"
        )


def _finish(path: Path, observations: Sequence[_Observation], tier: str | None, found: Annotations) -> None:
    """Choose the states that count, and place them in the files that they were seen in."""
    states = [state for one in observations for state in one.states]
    subjects = sorted({state.subject or FOCAL for state in states})
    categories = sorted({state.category for state in states} - {""})
    found.tiers = [*(subjects if len(subjects) > 1 else []), *categories]
    points = sorted({point for one in observations for point in one.points})
    if points:
        number = sum(len(one.points) for one in observations)
        found.notes.append(
            f"{path}: {number} point events have no length and are no phases, left out: {listed(points)}"
        )
    if tier is None and len(subjects) > 1:
        found.notes.append(f"{path}: several subjects are read together: {listed(subjects)}; data.tier=NAME reads one")
    for one in observations:
        chosen = [state for state in one.states if tier is None or _is_of(state, tier)]
        found.tracks += _tracks(one, chosen, found)
    found.tracks = merged(found.tracks)


def _is_of(state: _State, tier: str) -> bool:
    return tier.casefold() in ((state.subject or FOCAL).casefold(), state.category.casefold())


def _tracks(one: _Observation, states: Sequence[_State], found: Annotations) -> Iterator[Track]:
    """The states of an observation, file by file; one that goes on in the next file is cut there."""
    begin = 0.0
    for number, file in enumerate(one.files):
        end = begin + one.lengths[number] if number < len(one.files) - 1 else float("inf")
        segments = []
        for state in states:
            start, stop = max(state.start - one.offset, begin) - begin, min(state.stop - one.offset, end) - begin
            if state.start - one.offset < 0:
                if number == 0:
                    found.problems.append(
                        f"{state.where}: {state.behaviour!r} begins before the video, at {state.start - one.offset:g} s"
                    )
            elif start < stop:
                segments.append(Segment(start, stop, state.behaviour, True, state.where))
            elif start == stop and begin <= state.start - one.offset < end:
                found.problems.append(f"{state.where}: {state.behaviour!r} begins and ends at {state.start:g} s")
        yield Track((file,), segments)
        begin = end


# ---------------------------------------------------------------------------------------------------------------------
# Tables.


def is_table(head: str) -> bool:
    """Whether the beginning of a table, in lower case, is that of BORIS's events."""
    return "behavior" in head and any(mark in head for mark in ("start (s)", "behavior type", "\tstatus", ",status"))


def read_events(path: Path, tier: str | None = None) -> Annotations:
    """The segments of a table of events, tabular or aggregated.

    Raises:
        DataError: it is none.
    """
    table = read_table(path, COLUMNS, preamble=True)
    found = Annotations(problems=list(table.problems))
    columns = set(table.columns)
    kind = next((name for name in KINDS if name in columns), None)
    start, stop = (next((name for name in names if name in columns), None) for names in (STARTS, STOPS))
    media = next((name for name in MEDIA if name in columns), None)
    is_aggregated = start is not None and stop is not None
    if "behavior" not in columns or not (is_aggregated or ("time" in columns and kind)):
        raise DataError(
            f"{path}: must have BORIS's columns Behavior, and Start (s) and Stop (s), or Time and Status, got "
            f"{listed(table.columns)}"
        )
    observations: dict[str, _Observation] = {}
    events: dict[str, list[_Event]] = {}
    for row in table.rows:
        one = _observation_of(row, table, media, observations, found)
        if one is None:
            continue
        where = f"{path}:{row.line}"
        label, subject = row.cells["behavior"], row.cells.get("subject", "")
        subject = "" if subject == FOCAL else subject
        if not label:
            found.problems.append(f"{where}: must have a behaviour, got nothing")
            continue
        said = row.cells.get(kind or "", "").upper()
        if is_aggregated:
            assert start is not None
            assert stop is not None
            if said.startswith("POINT"):
                one.points.append(label)
                continue
            times = [seconds_of(row.cells[name], table.separator) for name in (start, stop)]
            if times[0] is None or times[1] is None or not times[0] < times[1]:
                got = f"{row.cells[start]!r} and {row.cells[stop]!r}"
                found.problems.append(f"{where}: must be {start} < {stop} in seconds, got {got}")
                continue
            category = row.cells.get("behavioral_category", "")
            one.states.append(_State(times[0], times[1], label, subject, category, where))
            continue
        time = seconds_of(row.cells["time"], table.separator)
        if time is None or said not in ("START", "STOP", "POINT"):
            got = f"{row.cells['time']!r} and {said!r}"
            found.problems.append(f"{where}: must have a time in seconds, and START, STOP or POINT, got {got}")
            continue
        modifiers = "|".join(value for name, value in row.cells.items() if name.startswith("modifier"))
        category = row.cells.get("behavioral_category", "")
        events.setdefault(one.name, []).append(_Event(time, subject, label, category, modifiers, said, where))
    for name, own in events.items():
        _fill(observations[name], own, found)
    _finish(path, list(observations.values()), tier, found)
    return found


def _observation_of(
    row: Row, table: Table, media: str | None, observations: dict[str, _Observation], found: Annotations
) -> _Observation | None:
    """The observation of a line, with its files; None where it is of no video."""
    name = row.cells.get("observation_id") or table.before.get("observation id", "")
    file = row.cells.get(media, "") if media else ""
    where = f"{table.path}:{row.line}"
    source = row.cells.get("source", "")
    files = _sources(source) or ([file] if file.lower() not in NO_MEDIA else [])
    if name not in observations:
        if not files:
            found.notes.append(f"{where}: observation {name!r} is of no video file, left out")
        given = row.cells.get("time_offset_(s)") or table.before.get("time offset (s)", "") or "0"
        offset = seconds_of(given, table.separator)
        if offset is None:
            found.problems.append(f"{where}: the time offset must be seconds, got {given!r}")
        told = row.cells.get("media_duration_(s)", "").partition("|")[0].split(";")
        lengths = _lengths(files, [seconds_of(text.strip(), table.separator) for text in told])
        if lengths is None:
            rule = f"must have the lengths of the {len(files)} files of observation {name!r}"
            found.problems.append(f"{where}: {rule}, got {';'.join(told)!r}; put the project (.boris) in its place")
            files = []
        observations[name] = _Observation(name, where, files, lengths or [], offset or 0.0)
    one = observations[name]
    if not one.files:
        return None
    if not _sources(source) and file and file not in one.files:
        found.problems.append(
            f"{where}: observation {name!r} has several files, {one.files[0]!r} and {file!r}, and the table does not "
            "say how long they are; put the project (.boris) in its place"
        )
        return None
    return one


def _sources(text: str) -> list[str]:
    """The files of the first player in a Source column: `player #1:a.mp4;b.mp4|player #2:c.mp4`."""
    mark = f"player #{PLAYER}:"
    if not text.startswith(mark):
        return []
    return [file.strip() for file in text.partition("|player #")[0].removeprefix(mark).split(";") if file.strip()]


# ---------------------------------------------------------------------------------------------------------------------
# Writing.


def write(path: Path, videos: Sequence[Labelled]) -> None:
    """Write a project with an observation for each video; one that was there and is another stays as NAME.TIME.bak.

    Raises:
        OSError: it cannot be written.
    """
    phases = list(dict.fromkeys(segment.phase for video in videos for segment in video.segments))
    now = datetime.now().isoformat(timespec="seconds")
    behaviours = {
        str(number): {
            "type": "State event",
            "key": str((number + 1) % 10) if number < 10 else "",
            "code": phase,
            "description": "",
            "color": "",
            "category": "",
            "modifiers": {},
            "excluded": "",
            "coding map": "",
        }
        for number, phase in enumerate(phases)
    }
    project = {
        "time_format": "s",
        "project_date": now,
        "project_name": path.stem,
        "project_description": "written by lacray",
        "project_format_version": FORMAT,
        "subjects_conf": {},
        "behaviors_conf": behaviours,
        "behavioral_categories": [],
        "observations": {video.name: _observation(video, now) for video in videos},
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
    }
    text = json.dumps(project, indent=1, ensure_ascii=False) + "\n"
    # Bytes of a file's name that are no UTF-8: as JSON, and Python, escape them.
    write_kept(path, text.encode(errors="backslashreplace"), but=WRITTEN)


def _observation(video: Labelled, now: str) -> dict[str, Any]:
    file = str(video.path)
    events = []
    for segment in sorted(video.segments, key=lambda segment: segment.start):
        events += [[round(time, 3), "", segment.phase, "", ""] for time in (segment.start, segment.end)]
    return {
        "file": {str(player): [file] if str(player) == PLAYER else [] for player in range(1, 9)},
        "type": "MEDIA",
        "date": now,
        "description": "",
        "time offset": 0.0,
        # One that ends where the next of its kind begins comes first: the order of events at one time tells.
        "events": sorted(events, key=lambda event: event[0]),
        "observation time interval": [0, 0],
        "independent_variables": {},
        "visualize_spectrogram": False,
        "visualize_waveform": False,
        "close_behaviors_between_videos": False,
        "scan_sampling_time": 0,
        "media_creation_date_as_offset": False,
        "media_info": {
            "length": {file: round(video.seconds, 3)},
            "fps": {file: round(video.rate, 3)},
            "hasVideo": {file: True},
            "hasAudio": {file: False},
            "offset": {PLAYER: 0.0},
        },
    }
