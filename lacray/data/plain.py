"""The plain layout: a folder of videos, and tables beside them where there are some.

videos/**         videos in any folders, as files or as folders of pictures; where there is no such folder, those of the
                  data set's folder itself
segments.csv      video,start_frame,end_frame,phase or video,start_seconds,end_seconds,phase; optional
*.boris, *.eaf    labels of BORIS and ELAN, and their tables, in place of segments.csv
splits.csv        video,split and, where there are several, action; optional: without it every fifth video is val.
                  place: the list order, which tells whose labels are the first; else they are by name
phases.csv        phase and, where there are several, action: the order of the phases; optional: else their mean place
features/**.npy   (frames, channels) a video, in place of videos
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lacray.config import DataConfig
from lacray.data import boris
from lacray.data.annotated import Reader
from lacray.data.annotations import label_files, read_labels
from lacray.data.discovery import VIDEO_SUFFIXES, Found, find_files, is_picture, shown
from lacray.data.labels import (
    COLUMNS,
    FRAMES,
    KNOWN,
    SECONDS,
    Segment,
    composed,
    phase_order,
    read_segment,
    time_columns,
)
from lacray.data.listing import Entry, Layout, Listing, Sidecars, some
from lacray.data.names import FOLDER, Names, same_end
from lacray.data.tables import Row, Table, find_table, has_table, read_table
from lacray.data.videoset import DataError

# What a data set's folder holds beside its videos, in lower case.
STEMS = ("segments", "splits", "phases")
OWN = frozenset({"features", "progress", *(f"{stem}{suffix}" for stem in STEMS for suffix in (".csv", ".tsv"))})
TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".eaf", ".boris")
# Unknown names of a table that are told one by one.
MAX_UNKNOWN = 10


def read(root: Path, config: DataConfig) -> Listing:
    """List the videos of a folder, with their splits and segments."""
    found = _videos(root)
    paths, twins = _named(root, found)
    files = label_files(root, ignored=OWN)
    base = root / FOLDER if (root / FOLDER).is_dir() else root
    found.passed.leave_out(shown(path.relative_to(base).as_posix()) for path in files if path.is_relative_to(base))
    summary = found.passed.summary()
    listing = Listing("plain", [], {"": []}, [f"passed over: {summary}"] if summary else [])
    made_up = not paths and config.input == "features"
    if made_up:
        paths = {name: root / name for name in Sidecars(root, "features").video_names()}
    if not paths:
        listing.problems.append(_nothing(root, config, summary))
        return listing
    names = Names({**{name: name for name in paths}, **twins}, root=root, any_suffix=made_up)
    pictures = [name for name, path in paths.items() if path.is_dir()]
    if pictures and len(pictures) < len(paths):
        listing.notes.append(f"folders of pictures that count as videos beside the files: {some(pictures)}")
    lines = _splits(root, names, list(paths), listing)
    segments = _labels(root, names, files, config, listing)
    listing.entries = [
        Entry(name, path, line.split, segments.get(name), action=line.action)
        for (name, path), line in zip(paths.items(), lines, strict=True)
    ]
    places = {entry.name: line.place for entry, line in zip(listing.entries, lines, strict=True)}
    listing.entries.sort(key=lambda entry: places[entry.name])
    listing.phases = _phases(root, listing)
    return listing


LAYOUT = Layout("plain", lambda root: has_table(root, STEMS), read, parts=frozenset({FOLDER}))


def names_of(root: Path) -> Names:
    """Finds the videos of a folder by what its tables write for them."""
    paths, twins = _named(root, _videos(root))
    return Names({**{name: name for name in paths}, **twins}, root=root)


def find_labels(root: Path) -> tuple[Path | None, dict[Path, Reader]]:
    """What the labels of a folder are read from: its table of segments; where there is none, other programs' files.

    Raises:
        DataError: there are several such tables.
    """
    table = find_table(root, "segments")
    return table, {} if table is not None else label_files(root, ignored=OWN)


def _named(root: Path, found: Found) -> tuple[dict[str, Path], dict[str, str]]:
    """The videos that were found, and their further names, as the data set has them."""
    prefix = f"{FOLDER}/" if (root / FOLDER).is_dir() else ""
    paths = {prefix + name: path for name, path in found.paths.items()}
    return paths, {prefix + name: prefix + first for name, first in found.twins.items()}


def _videos(root: Path) -> Found:
    if not (root / FOLDER).is_dir():
        ignored = {*OWN, *(path.name.lower() for path in _tables(root))}
        return find_files(root, VIDEO_SUFFIXES, ignored=ignored, pictures=True)
    found = find_files(root / FOLDER, VIDEO_SUFFIXES, pictures=True)
    inside = {os.path.realpath(path) for path in found.paths.values()}
    for name, path in find_files(root, VIDEO_SUFFIXES, ignored={*OWN, FOLDER}, pictures=True).paths.items():
        if os.path.realpath(path) not in inside:
            found.passed.add(f"videos outside {FOLDER}/", name)
    return found


def _tables(root: Path) -> list[Path]:
    """Files that may be meant to be read as tables."""
    tables = (path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES)
    return [path for path in tables if not path.name.startswith((".", "~"))]


def _nothing(root: Path, config: DataConfig, summary: str) -> str:
    where = root / FOLDER if (root / FOLDER).is_dir() else root
    also = f" ({summary} passed over)" if summary else ""
    remedy = f"put the videos into {where}, or give another data.root"
    if config.input == "videos" and Sidecars(root, "features").found.paths:
        remedy = "give data.input=features to train on its features/*.npy"
    elif config.input == "features":
        remedy = f"put arrays into {root / 'features'}, or give another data.root"
    elif any(is_picture(path.name) for path in where.iterdir()):
        remedy = f"a video is a folder of pictures: put them into {where}/NAME"
    return f"{root}: has no videos (mp4, mov, avi, mkv, ...) in {where} or below it, and no train.pkl{also}; {remedy}"


class _Lookup:
    """The videos that the lines of a table name; what is wrong goes to its problems."""

    def __init__(self, names: Names, table: Table) -> None:
        self.names, self.table = names, table
        self.problems: list[str] = []
        self._unknown: dict[str, list[int]] = {}
        self._spelled: dict[str, str] = {}
        """The videos that were found, each with how it was written first."""

    def video(self, row: Row) -> str | None:
        """The video of a line; None where it names none, or not one."""
        text, where = row.cells.get("video", ""), f"{self.table.path}:{row.line}"
        found = self.names.find(text)
        if row.may_be_comment and not found:
            return None
        if row.is_short:
            self.problems.append(f"{where}: must have {len(self.table.columns)} fields, got {len(row.cells)}")
        elif not found:
            self._unknown.setdefault(text, []).append(row.line)
        elif len(found) > 1:
            self.problems.append(f"{where}: {text!r} may be {' or '.join(found[:3])}; write its folder and its suffix")
        elif not same_end(self._spelled.setdefault(found[0], text), text):
            self.problems.append(
                f"{where}: {text!r} and {self._spelled[found[0]]!r} would both be {found[0]}; name each by its file"
            )
        else:
            return found[0]
        return None

    def finish(self, listing: Listing, problems: list[str]) -> None:
        """Tell what is wrong, and which folders that are written are not there."""
        problems += self.problems + self._unknown_told()
        shorter = [(text, name) for name, text in self._spelled.items() if not self.names.takes_all_of(text)]
        if shorter:
            text, name = shorter[0]
            more = f", and {len(shorter) - 1} more so" if len(shorter) > 1 else ""
            listing.notes.append(
                f"{self.table.path.name}: {text!r} is taken for {name}, without the folders before it{more}"
            )

    def _unknown_told(self) -> list[str]:
        """A line for each name that is no video's, with what it may have been."""
        told = []
        for text, lines in list(self._unknown.items())[:MAX_UNKNOWN]:
            near = self.names.closest(text)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; the first video is {min(self.names.videos)}"
            more = f" (and in {len(lines) - 1} more lines)" if len(lines) > 1 else ""
            told.append(f"{self.table.path}:{lines[0]}: no such video, {text!r}{more}{hint}")
        if len(self._unknown) > MAX_UNKNOWN:
            told.append(f"{self.table.path}: {len(self._unknown) - MAX_UNKNOWN} more names are of no video")
        return told


def _table(root: Path, stem: str, known: frozenset[str], problems: list[str]) -> Table | None:
    """A table of the data set; None where there is none, or none that can be read."""
    try:
        path = find_table(root, stem)
        table = read_table(path, known) if path is not None else None
    except DataError as error:
        problems += error.problems
        return None
    if table is not None:
        problems += table.problems
    return table


def _labels(
    root: Path, names: Names, files: dict[Path, Reader], config: DataConfig, listing: Listing
) -> dict[str, list[Segment]]:
    """The segments of every video that has some: of segments.csv, else of the label files of other programs."""
    tables = {path for path in _tables(root) if path.name.lower() not in OWN}
    has_own = has_table(root, ("segments",))
    unread = sorted(shown(path.name) for path in (tables | files.keys() if has_own else tables - files.keys()))
    if packed := [name for name in find_files(root, {".gz"}).paths if name.lower().endswith(f"{boris.SUFFIX}.gz")]:
        listing.notes.append(f"not read: {some(packed)}; unpack it, or save it from BORIS without compression")
    if unread:
        listing.notes.append(
            f"not read: {', '.join(unread[:3])}{', ...' if len(unread) > 3 else ''}; labels are read from "
            "segments.csv, splits from splits.csv"
        )
    if not has_own:
        return read_labels(files, names, config.tier, listing)
    if config.tier is not None:
        listing.label_problems.append(
            f"data.tier: reads label files of ELAN and BORIS, got {config.tier!r}, but segments.csv is there and "
            "counts; leave one of the two out"
        )
    return _segments(root, names, listing)


def tier_files(root: Path) -> set[Path]:
    """The files that labels are read from, where `data.tier` chooses in them."""
    return set() if has_table(root, ("segments",)) else set(label_files(root, ignored=OWN))


def _columns_problem(table: Table, wanted: str, lacks: list[str]) -> str:
    return (
        f"{table.path}: must have the columns {wanted}, lacks {','.join(lacks)}; its first line is read as "
        f"{', '.join(map(repr, table.columns))}"
    )


@dataclass
class _Line:
    """What splits.csv says of a video."""

    split: str
    action: str = ""
    place: int = 0
    """In the list of all videos; where nothing says it, all are 0, and the names count."""


def _splits(root: Path, names: Names, videos: list[str], listing: Listing) -> list[_Line]:
    """What is said of each video."""
    lines = {name: _Line("val" if index % 5 == 4 else "train") for index, name in enumerate(videos)}
    table = _table(root, "splits", frozenset({"video", "split", "action", "place"}), listing.problems)
    if table is None:
        listing.splits_by = "; every fifth is val, for want of a splits.csv"
        return list(lines.values())
    lacks = [column for column in ("video", "split") if column not in table.columns]
    if lacks:
        listing.problems.append(_columns_problem(table, "video,split", lacks))
        return list(lines.values())
    if not table.rows:
        listing.splits_by = "; every fifth is val, for want of lines in splits.csv"
        listing.notes.append(f"{table.path.name}: has no line below its header; every fifth video is val")
        return list(lines.values())
    given: dict[str, str] = {}
    lookup = _Lookup(names, table)
    for row in table.rows:
        video = lookup.video(row)
        if row.may_be_comment and video is None:
            continue
        where, split = f"{table.path}:{row.line}", row.cells["split"].lower()
        if split not in ("train", "val"):
            listing.split_problems.append(f"{where}: split must be train or val, got {row.cells['split']!r}")
        elif video is not None and given.setdefault(video, split) != split:
            listing.split_problems.append(f"{where}: {video} is in both splits; keep one of its lines")
        if video is None:
            continue
        line, action, place = lines[video], row.cells.get("action", ""), row.cells.get("place", "0")
        if line.action and action and line.action != action:
            lookup.problems.append(f"{where}: {video} is of {line.action} and of {action}; keep one of its lines")
        if not place.isdecimal():
            lookup.problems.append(f"{where}: place must be an integer >= 0, got {place!r}")
        line.split = given.get(video, line.split)
        line.action, line.place = action or line.action, int(place) if place.isdecimal() else 0
    lookup.finish(listing, listing.problems)
    missing = [name for name in videos if name not in given]
    if missing:
        # A line may say what is done in a video, too.
        has_actions = any(line.action for line in lines.values())
        (listing.problems if has_actions else listing.split_problems).append(
            f"{table.path}: {len(missing)} videos have no split, first {missing[0]}; add a line each"
        )
    without = [name for name in given if not lines[name].action]
    if without and len(without) < len(given):
        listing.problems.append(
            f"{table.path}: {len(without)} videos have no action, first {without[0]}; write one into each line, or "
            "leave the column out"
        )
    return list(lines.values())


def _phases(root: Path, listing: Listing) -> dict[str, list[str]]:
    """The phases of each action in their order: that of phases.csv, or of their mean place in the videos."""
    segments: dict[str, list[list[Segment]]] = {action: [] for action in sorted({e.action for e in listing.entries})}
    for entry in listing.entries:
        segments[entry.action] += [entry.segments] if entry.segments is not None else []
    found = {action: phase_order(own) for action, own in segments.items()}
    table = _table(root, "phases", frozenset({"phase", "action"}), listing.label_problems)
    if table is None:
        return found
    wanted = ("phase",) if set(found) == {""} else ("action", "phase")
    lacks = [column for column in wanted if column not in table.columns]
    if lacks:
        listing.label_problems.append(_columns_problem(table, ",".join(wanted), lacks))
        return found
    told: dict[str, list[str]] = {}
    for row in table.rows:
        action, phase = row.cells.get("action", ""), composed(row.cells.get("phase", ""))
        if row.may_be_comment and phase not in found.get(action, []):
            continue
        own = told.setdefault(action, [])
        if phase in own:
            listing.label_problems.append(f"{table.path}:{row.line}: {phase!r} is there twice; keep one line")
        own.append(phase)
    for action, phases in found.items():
        unknown = [phase for phase in phases if phase not in told.get(action, [])]
        if unknown:
            whose = f"{action} in segments.csv" if action else "segments.csv"
            listing.label_problems.append(
                f"{table.path}: must name every phase of {whose}, lacks {some(unknown)}; add them"
            )
            told.setdefault(action, []).extend(unknown)
    return {action: told.get(action, []) for action in found}


def segment_columns(table: Table) -> tuple[tuple[str, str], bool]:
    """The columns of a table of segments that hold starts and ends, and whether they are seconds.

    Raises:
        DataError: it lacks columns.
    """
    times = time_columns(table)
    lacks = [column for column in ("video", "phase") if column not in table.columns]
    if times is not None and not lacks:
        return times
    has_frames = not set(SECONDS) & set(table.columns)
    lacks += [] if times is not None else [c for c in (FRAMES if has_frames else SECONDS) if c not in table.columns]
    wanted = f"{','.join(COLUMNS)} (or {','.join(SECONDS)} in place of frames)"
    raise DataError([_columns_problem(table, wanted, lacks)])


def _segments(root: Path, names: Names, listing: Listing) -> dict[str, list[Segment]]:
    """The segments of every video that has some."""
    table = _table(root, "segments", KNOWN, listing.label_problems)
    if table is None:
        return {}
    try:
        times = segment_columns(table)
    except DataError as error:
        listing.label_problems += error.problems
        return {}
    if "action" in table.columns:
        listing.notes.append(f"{table.path.name}: its actions are not read; they are read from splits.csv")
    lookup = _Lookup(names, table)
    problems: list[str] = []
    segments: dict[str, list[Segment]] = {}
    for row in table.rows:
        video = lookup.video(row)
        if row.may_be_comment and video is None:
            continue
        segment = read_segment(row, table, *times) if not row.is_short else None
        if isinstance(segment, str):
            problems.append(segment)
        elif segment is not None and video is not None:
            segments.setdefault(video, []).append(segment)
    listing.label_problems += problems
    lookup.finish(listing, listing.label_problems)
    if not table.rows and not table.problems:
        listing.notes.append(f"{table.path.name}: has no line below its header; no video is labelled")
    if not times[1] and any(column in KNOWN for column in set(table.columns) - {*COLUMNS}):
        listing.notes.append(f"{table.path.name}: has frames and seconds; its frames count")
    listing.notes += _alike({segment.phase for own in segments.values() for segment in own})
    return segments


def _alike(phases: set[str]) -> list[str]:
    """Phases that are written so much alike that they may be meant to be one."""
    groups: dict[str, list[str]] = {}
    for phase in sorted(phases):
        groups.setdefault("".join(sign for sign in phase.casefold() if sign.isalnum()) or phase, []).append(phase)
    return [
        f"phases {' and '.join(map(repr, group))} count as {len(group)}; write them alike if they are one"
        for group in groups.values()
        if len(group) > 1
    ]
