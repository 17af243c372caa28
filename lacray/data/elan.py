"""Labels of ELAN: its documents (.eaf, XML) and its tab-delimited exports.

The annotations of one tier become segments, named by their values. ELAN's tiers run side by side, and a frame has one
phase: of several, `data.tier` names the one that is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote
from xml.etree.ElementTree import Element, SubElement, TreeBuilder, indent, tostring
from xml.parsers import expat

from lacray.data.annotated import ALSO_TIER, Annotations, Labelled, Track, listed, merged
from lacray.data.files import fitting, write_kept
from lacray.data.labels import Segment, seconds_of
from lacray.data.names import is_video
from lacray.data.tables import Row, Table, read_table, text_of
from lacray.data.videoset import DataError
from lacray.text import printable

SUFFIX = ".eaf"
TIER = "phase"
"""The tier that is written."""
DEEPEST = 32
"""Elements within each other; ELAN's own have 6."""

MSEC, SEC, CLOCK = "msec", "ss.msec", "hh:mm:ss.ms"
BEGIN, END, DURATION = "begin_time_", "end_time_", "duration_"
COLUMNS = frozenset(
    {
        *(f"{what}{unit}" for what in (BEGIN, END, DURATION) for unit in (MSEC, SEC, CLOCK)),
        *("tier", "participant", "annotator", "annotation", "annotation_value", "file", "file_path", "file_name"),
    }
)
FILES = ("file_path", "file", "file_name")
VALUES = ("annotation", "annotation_value", "value")
WRITTEN = re.compile(rb' DATE="[^"]*"')
"""When a document was written."""


# ---------------------------------------------------------------------------------------------------------------------
# Documents.


class _RefusedError(Exception):
    """What a label file has no need of."""


def parsed(content: bytes) -> Element:
    """An XML document, without what can make a small one endless: document types, entities, depth.

    Raises:
        ValueError: it is none, or has those.
    """
    builder = TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise _RefusedError(f"has elements more than {DEEPEST} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: Any) -> Any:
        raise _RefusedError("declares a document type or entities, which label files do not need")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, _RefusedError) as error:
        raise ValueError(str(error)) from error
    return builder.close()


def read(path: Path, tier: str | None = None) -> Annotations:
    """The segments of an ELAN document.

    Args:
        tier: of several tiers, the one that is read, in any capitals.

    Raises:
        DataError: it is none, or its times are no milliseconds.
    """
    try:
        document = parsed(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is no document of ELAN ({error}); save it anew from ELAN") from error
    header = document.find("HEADER")
    if document.tag != "ANNOTATION_DOCUMENT" or header is None:
        raise DataError(f"{path}: is no document of ELAN, but XML of {document.tag}")
    if (units := header.get("TIME_UNITS", "milliseconds")) != "milliseconds":
        raise DataError(f"{path}: must have times in milliseconds, got {units}; save it anew from a newer ELAN")
    found = Annotations()
    tiers = {one.get("TIER_ID", ""): one for one in document.iter("TIER") if one.find("ANNOTATION") is not None}
    timed = {name: one for name, one in tiers.items() if one.find("ANNOTATION/ALIGNABLE_ANNOTATION") is not None}
    found.tiers = list(timed)
    independent = [name for name, one in timed.items() if not one.get("PARENT_REF")]
    chosen = _chosen(path, independent if tier is None else list(timed), tier, found)
    if chosen is None:
        return found
    left = [name for name in tiers if name != chosen]
    if left:
        found.notes.append(f"{path}: tier {chosen!r} is read, not {listed(left)}")
    times = _times(path, document, found)
    medium = _medium(path, header, found)
    media = [] if medium is None else [medium.get(key, "") for key in ("RELATIVE_MEDIA_URL", "MEDIA_URL")]
    origin = _origin(path, medium, found)
    segments = [_moved(segment, origin) for segment in _segments(path, timed[chosen], times, found)]
    spelled = tuple(dict.fromkeys(name for address in media for name in _spellings(address)))
    found.tracks = merged([Track(spelled, segments, path.with_suffix("").as_posix())])
    return found


def _chosen(path: Path, tiers: Sequence[str], tier: str | None, found: Annotations) -> str | None:
    """The tier that is read; None where there is none, or too many."""
    if tier is not None:
        same = [name for name in tiers if name.casefold() == tier.casefold()]
        if not same and tiers:
            found.notes.append(f"{path}: has no tier {tier!r}, only {listed(tiers)}; not read")
        return same[0] if same else None
    if len(tiers) > 1:
        found.problems.append(
            f"{path}: must have one tier to be read, got {listed(tiers)}; name the one that holds the phases: "
            f"data.tier=NAME{ALSO_TIER}"
        )
    elif not tiers:
        found.notes.append(f"{path}: has no annotations with times; not read")
    return tiers[0] if len(tiers) == 1 else None


def _times(path: Path, document: Element, found: Annotations) -> dict[str, float]:
    """Seconds of each time slot that has some."""
    times: dict[str, float] = {}
    for slot in document.iter("TIME_SLOT"):
        value = slot.get("TIME_VALUE")
        if value is None:
            continue
        if not re.fullmatch(r"\d{1,12}", value):
            found.problems.append(f"{path}: time slot {slot.get('TIME_SLOT_ID')}: must be milliseconds, got {value!r}")
            continue
        times[slot.get("TIME_SLOT_ID", "")] = int(value) / 1000
    return times


def _medium(path: Path, header: Element, found: Annotations) -> Element | None:
    """The medium that the annotations are of: the first video, else the first that is not taken from another."""
    media = [one for one in header.iter("MEDIA_DESCRIPTOR") if not one.get("EXTRACTED_FROM")]
    videos = [one for one in media if _is_video(one)]
    if len(videos) > 1:
        others = [PurePosixPath(_address(one)).name for one in videos[1:]]
        found.notes.append(f"{path}: labels its first video; not read for {listed(others)}")
    return next(iter([*videos, *media]), None)


def _is_video(medium: Element) -> bool:
    return medium.get("MIME_TYPE", "").startswith("video/") or is_video(_address(medium))


def _address(medium: Element) -> str:
    address = medium.get("RELATIVE_MEDIA_URL") or medium.get("MEDIA_URL") or ""
    return address.replace("\\", "/")


def _origin(path: Path, medium: Element | None, found: Annotations) -> float:
    """Seconds of the video that lie before the time 0 of the annotations."""
    given = "0" if medium is None else medium.get("TIME_ORIGIN", "0")
    if not re.fullmatch(r"-?\d{1,12}", given):
        found.problems.append(f"{path}: TIME_ORIGIN must be milliseconds, got {given!r}")
        return 0.0
    return int(given) / 1000


def _spellings(address: str) -> list[str]:
    """The paths that a media address may mean: with and without %20 for a space."""
    text = re.sub(r"^file:/*", "/", address).replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".", "..")]
    plain = "/".join(parts)
    return [spelled for spelled in dict.fromkeys((plain, unquote(plain, errors="surrogateescape"))) if spelled]


def _moved(segment: Segment, seconds: float) -> Segment:
    return Segment(segment.start + seconds, segment.end + seconds, segment.phase, True, segment.where)


def _segments(path: Path, tier: Element, times: dict[str, float], found: Annotations) -> list[Segment]:
    segments: list[Segment] = []
    num_empty = 0
    for annotation in tier.iter("ALIGNABLE_ANNOTATION"):
        where = f"{path}: annotation {annotation.get('ANNOTATION_ID')}"
        start, end = (times.get(annotation.get(f"TIME_SLOT_REF{number}", "")) for number in (1, 2))
        value = " ".join((annotation.findtext("ANNOTATION_VALUE") or "").split())
        if not value:
            num_empty += 1
        elif start is None or end is None:
            found.problems.append(f"{where}: {value!r} must have a beginning and an end in time; give it both in ELAN")
        elif not start < end:
            found.problems.append(f"{where}: {value!r} must begin before it ends, got {start:g} and {end:g} s")
        else:
            segments.append(Segment(start, end, value, True, where))
    if num_empty:
        found.notes.append(f"{path}: {num_empty} annotations without a text are no phases, left out")
    return segments


# ---------------------------------------------------------------------------------------------------------------------
# Tab-delimited exports.


def is_table(head: str) -> bool:
    """Whether the beginning of a table, in lower case, is that of an export with its header."""
    return "begin time - " in head


@dataclass
class _Columns:
    begin: tuple[str, str]
    """The column, and the unit that it has."""
    end: tuple[str, str] | None
    duration: tuple[str, str] | None
    file: str | None
    value: str | None
    tiers: list[str] = field(default_factory=list)
    """Columns that are a tier each."""


def read_export(path: Path, tier: str | None = None) -> Annotations:
    """The segments of a tab-delimited export with a header: a column for each tier, or a line for each annotation.

    Raises:
        DataError: it has no times that can be read.
    """
    table = read_table(path, COLUMNS, preamble=True)
    found = Annotations(problems=list(table.problems))
    columns = _columns(table)
    of_rows = columns.value is not None
    names = sorted({row.cells.get("tier", "") for row in table.rows} - {""}) if of_rows else columns.tiers
    found.tiers = names
    chosen = _chosen(path, names or [TIER], tier, found) if names or tier is None else None
    if chosen is None:
        return found
    tracks = []
    num_empty = 0
    media = _media(path)
    if shifted := [f"{name!r} by {offset} ms" for name, offset in media.items() if offset != "0"]:
        found.problems.append(
            f"{path}: must be of media without an offset, since nothing says whether its times hold it, got "
            f"{', '.join(shifted)}; put the document ({SUFFIX}) in its place"
        )
        return found
    addresses = tuple(name for address in media for name in _spellings(address))
    for row in table.rows:
        if of_rows and names and row.cells.get("tier") != chosen:
            continue
        value = row.cells.get(columns.value if of_rows and columns.value else chosen, "")
        if not value:
            num_empty += of_rows
            continue
        segment = _segment(row, table, columns, value)
        if isinstance(segment, str):
            found.problems.append(segment)
            continue
        tracks.append(Track(_media_of(row, columns, addresses), [segment], path.with_suffix("").as_posix()))
    if num_empty:
        found.notes.append(f"{path}: {num_empty} annotations without a text are no phases, left out")
    left = [name for name in names if name != chosen]
    if left:
        found.notes.append(f"{path}: tier {chosen!r} is read, not {listed(left)}")
    found.tracks = merged(tracks)
    return found


def _columns(table: Table) -> _Columns:
    def timed(what: str) -> tuple[str, str] | None:
        # The most exact one counts.
        return next(((what + unit, unit) for unit in (MSEC, SEC, CLOCK) if what + unit in table.columns), None)

    begin, end, duration = timed(BEGIN), timed(END), timed(DURATION)
    if begin is None or (end is None and duration is None):
        raise DataError(
            f"{table.path}: must have the columns `Begin Time` and `End Time` in msec, ss.msec or hh:mm:ss.ms, got "
            f"{listed(table.columns)}; export it anew with them"
        )
    value = next((name for name in VALUES if name in table.columns), None)
    others = [
        name for name in table.columns if name not in COLUMNS and not name.startswith((BEGIN, END, DURATION)) and name
    ]
    if value is None and "tier" in table.columns:
        raise DataError(
            f"{table.path}: must have a column for the annotations, got {listed(table.columns)}; export it with "
            "`separate column for each tier`"
        )
    file = next((name for name in FILES if name in table.columns), None)
    return _Columns(begin, end, duration, file, value, [] if value else others)


def _segment(row: Row, table: Table, columns: _Columns, value: str) -> Segment | str:
    where = f"{table.path}:{row.line}"

    def seconds(column: tuple[str, str] | None) -> float | None:
        if column is None:
            return None
        name, unit = column
        found = seconds_of(row.cells[name], table.separator)
        return found / 1000 if found is not None and unit == MSEC else found

    start, end, length = seconds(columns.begin), seconds(columns.end), seconds(columns.duration)
    if end is None and start is not None and length is not None:
        end = start + length
    if start is None or end is None or not 0 <= start < end:
        told = [column[0] for column in (columns.begin, columns.end or columns.duration) if column]
        return f"{where}: must have times with 0 <= begin < end, got {listed([row.cells[name] for name in told])}"
    return Segment(start, end, " ".join(value.split()), True, where)


def _media_of(row: Row, columns: _Columns, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """What a line calls its video: the document that it is of, else the media in the lines before the header."""
    written = row.cells.get(columns.file, "") if columns.file else ""
    return tuple(_spellings(written.removesuffix(SUFFIX))) or addresses


def _media(path: Path) -> dict[str, str]:
    """Media that stand in the lines before the header, `"#file:///C:/day 1/a.mp4 -- offset: 0"`, with their offset."""
    found = {}
    for line in text_of(path).splitlines()[:20]:
        address = re.search(r"file:/+[^\t\"]+", line) if line.lstrip('"').startswith("#") else None
        if address is not None:
            name, _, offset = address[0].partition(" -- offset:")
            found[name.strip().removesuffix(SUFFIX)] = offset.strip() or "0"
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Writing.


def path_of(folder: Path, name: str) -> Path:
    """Where a video's document goes: NAME.mp4.eaf."""
    path = folder / name
    return path.with_name(fitting(path.name, SUFFIX))


def write(path: Path, video: Labelled) -> None:
    """Write a document with one tier; one that was there and is another stays as NAME.TIME.bak.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "lacray",
            "DATE": now,
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
        },
    )
    header = SubElement(document, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    # Without `..`: a step up is no step that both may share.
    here, there = (PurePosixPath(Path(os.path.abspath(own)).as_posix()) for own in (path.parent, video.path))
    SubElement(
        header,
        "MEDIA_DESCRIPTOR",
        {
            "MEDIA_URL": f"file://{quote(os.fsencode(str(there)))}",
            "MIME_TYPE": "video/mp4" if video.path.suffix.lower() == ".mp4" else "unknown",
            "RELATIVE_MEDIA_URL": _relative(here, there),
        },
    )
    order = SubElement(document, "TIME_ORDER")
    tier = SubElement(document, "TIER", {"LINGUISTIC_TYPE_REF": "default-lt", "TIER_ID": TIER})
    for number, segment in enumerate(sorted(video.segments, key=lambda segment: segment.start), start=1):
        slots = [f"ts{2 * number - 1}", f"ts{2 * number}"]
        for slot, seconds in zip(slots, (segment.start, segment.end), strict=True):
            SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": slot, "TIME_VALUE": str(round(seconds * 1000))})
        refs = {"ANNOTATION_ID": f"a{number}", "TIME_SLOT_REF1": slots[0], "TIME_SLOT_REF2": slots[1]}
        annotation = SubElement(SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", refs)
        SubElement(annotation, "ANNOTATION_VALUE").text = printable(segment.phase)
    SubElement(header, "PROPERTY", {"NAME": "lastUsedAnnotationId"}).text = str(len(video.segments))
    SubElement(
        document,
        "LINGUISTIC_TYPE",
        {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true"},
    )
    indent(document)
    write_kept(path, tostring(document, encoding="UTF-8", xml_declaration=True), but=WRITTEN)


def _relative(here: PurePosixPath, there: PurePosixPath) -> str:
    """A path as seen from a folder; both are absolute."""
    shared = 0
    while shared < min(len(here.parts), len(there.parts)) and here.parts[shared] == there.parts[shared]:
        shared += 1
    ups = [".."] * (len(here.parts) - shared)
    path = "/".join([*(ups or ["."]), *there.parts[shared:]])
    # XML holds neither control characters nor bytes that are no UTF-8.
    return "".join(sign if sign.isprintable() else quote(os.fsencode(sign)) for sign in path)
