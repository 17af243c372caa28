"""Labels on disk: read for the page, and of what it changes the rows alone written; for BORIS and ELAN where asked."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacray.config import UserError
from lacray.data import DataError, boris, elan
from lacray.data.annotated import Labelled
from lacray.data.annotations import LABELS, read_labels
from lacray.data.facts import Clock
from lacray.data.files import write_kept
from lacray.data.labels import (
    ALSO_SECONDS,
    COLUMNS,
    FRAMES,
    KNOWN,
    SECONDS,
    Segment,
    composed,
    frame_labels,
    read_segment,
)
from lacray.data.listing import Listing, some
from lacray.data.plain import find_labels, names_of, segment_columns
from lacray.data.tables import Table, Text, edited, find_table, read_table, table_of
from lacray.page.marks import Mark

TABLE = "segments.csv"
FORMATS = ("csv", "boris", "elan")


@dataclass(frozen=True)
class Clip:
    """What labels need to know of a video on the page."""

    name: str
    path: Path
    action: str
    times: NDArray[np.float64]
    """(n,) seconds."""
    end: float
    rate: float
    falls: bool = False
    """Whether the file's own times fall back, as those of recordings that were joined do: one is of several frames."""

    def seconds(self, frame: int) -> float:
        """When a frame begins; the end, of the one behind the last."""
        return float(self.times[frame]) if frame < len(self.times) else self.end


@dataclass(frozen=True)
class Saved:
    """What a save has done."""

    written: list[Path]
    problems: list[str]
    """What could not be written, for BORIS and ELAN."""

    def add(self, path: Path, write: Callable[[Path, Any], None], what: object) -> None:
        """Write one more file."""
        try:
            write(path, what)
        except OSError as error:
            self.problems.append(f"{error.filename or path}: cannot be written ({error.strerror})")
        else:
            self.written.append(path)


@dataclass(frozen=True)
class _Row:
    """A row of the table of segments."""

    line: int
    spelled: str
    """What it calls its video."""
    mark: Mark


class ChangedError(UserError):
    """The labels on disk are no longer those that the page began with."""


class Labels:
    """The labels of a plain data set's folder: its table of segments, else what other programs have written.

    Args:
        root: the folder.
        tier: of several tiers, subjects or categories of other programs' files, the one that is read.
    """

    def __init__(self, root: Path, tier: str | None = None) -> None:
        self.root, self.tier = root, tier
        # Of all videos, also those that are not on the page: their rows are never taken for another's.
        self.names = names_of(root)

    def fingerprint(self) -> str:
        """What the files that labels are read from hold now; empty where there are none.

        Raises:
            DataError: they cannot be read.
        """
        table, files = find_labels(self.root)
        paths = [table] if table is not None else sorted(files)
        try:
            digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
        return "-".join(digests)

    def marks(self, clips: Sequence[Clip]) -> dict[str, list[Mark]]:
        """The segments of each video in order, by its name; of those that have some.

        Raises:
            DataError: the labels cannot be read.
        """
        return self._marks(self._table(), clips)

    def save(
        self,
        clips: Sequence[Clip],
        changed: Mapping[str, Sequence[Mark]],
        formats: Sequence[str] = (),
        *,
        known: str | None,
    ) -> Saved:
        """Write labels: to the table of segments always, for BORIS and ELAN where asked; each file appears whole.

        Rows of other videos, and those of segments that are as they were, stay byte for byte. The table is the one that
        is there; else segments.csv, with all that other programs' files hold. New phases go to the end of phases.csv,
        where there is one. What a file held before stays beside it, as NAME.TIME.bak.

        Args:
            clips: the videos on the page.
            changed: all segments of each of them whose segments were changed, by name.
            formats: some of FORMATS.
            known: `fingerprint` of the labels that the page began with; None: whatever is there.

        Raises:
            ChangedError: other labels are there now.
            DataError: what is there cannot be read.
            UserError: the table cannot be written, or an unknown format.
        """
        if wrong := [name for name in formats if name not in FORMATS]:
            raise UserError(f"format: must be one of {', '.join(FORMATS)}, got {', '.join(map(repr, wrong))}")
        if known is not None and self.fingerprint() != known:
            raise ChangedError(
                f"{self.root}: its labels were changed by something else since the page has read them; reload the "
                "page, or save all the same: videos that the page has not changed stay as they are there, and of what "
                "is there a backup is kept"
            )
        table = self._table()
        new = self._edited(table, clips, changed)
        written = table_of(table.path, new, KNOWN)
        fallen = [clip.name for clip in clips if clip.falls and changed.get(clip.name)]
        if fallen and segment_columns(written)[1]:
            # With them the data set could not be opened again.
            raise UserError(
                f"{table.path}: cannot hold segments of {some(fallen)} in seconds, since the file's times fall back; "
                "give the table start_frame,end_frame, or write the file anew"
            )
        marks = self._marks(written, clips)
        for name, own in changed.items():
            if sorted(own, key=_start) != marks.get(name, []):
                raise UserError(f"{table.path}: cannot hold the segments of {name} as they are on the page")
        # A data set must at no time have phases that the table of them lacks.
        contents = {**self._phases(clips, changed), table.path: new.file}
        try:
            for path, content in contents.items():
                write_kept(path, content)
        except OSError as error:
            raise UserError(f"{error.filename or self.root}: cannot be written ({error.strerror})") from error
        saved = Saved(list(reversed(contents)), [])
        labelled = [_in_seconds(clip, marks[clip.name]) for clip in clips if clip.name in marks]
        if "boris" in formats:
            saved.add(self.root / LABELS / "lacray.boris", boris.write, labelled)
        for video in labelled if "elan" in formats else ():
            saved.add(elan.path_of(self.root / LABELS, video.name.removeprefix("videos/")), elan.write, video)
        return saved

    def _table(self) -> Table:
        """The table of segments that is there, or that says the same as what is there."""
        path, files = find_labels(self.root)
        if path is not None:
            table = read_table(path, KNOWN)
        else:
            listing = Listing("plain", [], {})
            found = read_labels(files, self.names, self.tier, listing)
            if listing.label_problems:
                raise DataError(listing.label_problems)
            out = io.StringIO()
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(("video", *SECONDS, "phase") if found else COLUMNS)
            for name in sorted(found):
                writer.writerows((name, f"{s.start:.3f}", f"{s.end:.3f}", s.phase) for s in found[name])
            table = table_of(self.root / TABLE, Text(out.getvalue()), KNOWN)
        if table.problems:
            raise DataError(table.problems)
        return table

    def _marks(self, table: Table, clips: Sequence[Clip]) -> dict[str, list[Mark]]:
        return {name: sorted((row.mark for row in own), key=_start) for name, own in self._rows(table, clips).items()}

    def _rows(self, table: Table, clips: Sequence[Clip]) -> dict[str, list[_Row]]:
        """The rows of each video on the page."""
        columns, in_seconds = segment_columns(table)
        on_page = {clip.name: clip for clip in clips}
        given: dict[str, list[tuple[int, str, Segment]]] = {}
        for row in table.rows:
            spelled = row.cells.get("video", "")
            videos = self.names.find(spelled)
            if len(videos) != 1 or videos[0] not in on_page or row.is_short:
                continue
            segment = read_segment(row, table, columns, in_seconds)
            if isinstance(segment, Segment):
                given.setdefault(videos[0], []).append((row.line, spelled, segment))
        found: dict[str, list[_Row]] = {}
        for name, own in given.items():
            clip = on_page[name]
            # Each row as a phase of its own: two that touch stay two.
            numbers = [str(number) for number in range(len(own))]
            parts = [replace(segment, phase=number) for number, (_, _, segment) in zip(numbers, own, strict=True)]
            labels, _ = frame_labels(
                name, parts, numbers, len(clip.times), Clock(clip.times, 1 / max(clip.rate, 1e-3), clip.end)
            )
            for number, (line, spelled, segment) in enumerate(own):
                frames = np.flatnonzero(labels == number)
                if len(frames):
                    mark = Mark(int(frames[0]), int(frames[-1]) + 1, segment.phase)
                    found.setdefault(name, []).append(_Row(line, spelled, mark))
        return found

    def _edited(self, table: Table, clips: Sequence[Clip], changed: Mapping[str, Sequence[Mark]]) -> Text:
        rows = self._rows(table, clips)
        comma = _has_decimal_commas(table)
        dropped: set[int] = set()
        added: dict[int, list[Mapping[str, str]]] = {}
        for clip in sorted(clips, key=lambda clip: clip.name):
            own = rows.get(clip.name, [])
            wanted = changed.get(clip.name, [row.mark for row in own])
            dropped |= {row.line for row in own if row.mark not in wanted}
            spelled = own[0].spelled if own else clip.name
            for mark in sorted({*wanted} - {row.mark for row in own}, key=_start):
                # Behind the last row that begins before it, else before the first one.
                before = [row.line for row in own if row.mark.start <= mark.start]
                line = max(before, default=min((row.line - 1 for row in own), default=table.last))
                added.setdefault(line, []).append(_cells(spelled, clip, mark, comma))
        return edited(table, dropped, added)

    def _phases(self, clips: Sequence[Clip], changed: Mapping[str, Sequence[Mark]]) -> dict[Path, bytes]:
        """The table of phases, where there is one that lacks some."""
        path = find_table(self.root, "phases")
        if path is None:
            return {}
        table = read_table(path, ("phase", "action"))
        if table.problems or "phase" not in table.columns:
            raise DataError(table.problems or [f"{path}: must have the column phase, lacks it"])
        known = {(row.cells.get("action", ""), composed(row.cells.get("phase", ""))) for row in table.rows}
        has_actions = "action" in table.columns
        named = [
            (clip.action if has_actions else "", mark.phase) for clip in clips for mark in changed.get(clip.name, ())
        ]
        new = [
            {"action": action, "phase": phase} for action, phase in dict.fromkeys(named) if (action, phase) not in known
        ]
        return {path: edited(table, (), {table.last: new}).file} if new else {}


def _start(mark: Mark) -> int:
    return mark.start


def _has_decimal_commas(table: Table) -> bool:
    """Whether its times are written so: to the program that it comes from, a point may part thousands."""
    columns = [column for pair in (SECONDS, *ALSO_SECONDS) for column in pair]
    return table.separator != "," and any("," in row.cells.get(column, "") for row in table.rows for column in columns)


def _cells(spelled: str, clip: Clip, mark: Mark, has_commas: bool) -> dict[str, str]:
    """A segment by all columns that a table may have for it."""
    cells = {"video": spelled, "phase": mark.phase, FRAMES[0]: str(mark.start), FRAMES[1]: str(mark.stop)}
    seconds = [f"{clip.seconds(frame):.3f}" for frame in (mark.start, mark.stop)]
    if has_commas:
        seconds = [number.replace(".", ",") for number in seconds]
    for pair in (SECONDS, *ALSO_SECONDS):
        cells |= dict(zip(pair, seconds, strict=True))
    return cells


def _in_seconds(clip: Clip, marks: Sequence[Mark]) -> Labelled:
    segments = [Segment(clip.seconds(mark.start), clip.seconds(mark.stop), mark.phase, True, "") for mark in marks]
    return Labelled(clip.name, clip.path, clip.end, clip.rate, segments)
