"""Tables that people export from anything -> rows: separators, encodings and headers read where they are plain."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lacray.data.videoset import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# The longer mark first: it begins like the shorter one.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LINE_END = re.compile(r"(\r\n|\n|\r)")
# Spaces that cannot be seen, and the mark of a file's beginning where files were joined.
INVISIBLE = " \t\u00a0\u200b\ufeff"
PREAMBLE = 200
"""Lines among which a header is looked for behind others."""


@dataclass(frozen=True)
class Text:
    """What a file of text holds, and how it is written."""

    content: str
    """Without its mark."""
    encoding: str = "utf-8"
    mark: bytes = b""
    """The byte order mark that it begins with."""

    @property
    def file(self) -> bytes:
        """The file itself."""
        return self.mark + self.content.encode(self.encoding)


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    line: int
    cells: dict[str, str]
    """By column, without spaces around them."""
    may_be_comment: bool
    """It begins with a #, which may also be a name's."""
    is_short: bool = False
    """It has fewer fields than there are columns, of which some may have one name, or none."""


@dataclass(frozen=True)
class Table:
    """A table as it was read, its columns in lower case with `_` for spaces."""

    path: Path
    line: int
    """Of its header."""
    columns: list[str]
    rows: list[Row]
    separator: str
    text: Text
    problems: list[str]
    """What is wrong with single lines."""
    before: dict[str, str] = field(default_factory=dict)
    """What stands before the header, where that was asked for: the first two fields of each line, the first of them in
    lower case."""

    @property
    def last(self) -> int:
        """The line of the last row; of the header, where there is none."""
        return self.rows[-1].line if self.rows else self.line


def has_table(folder: Path, stems: Collection[str]) -> bool:
    """Whether any of some tables lies in a folder."""
    names = {f"{stem}{suffix}" for stem in stems for suffix in (".csv", ".tsv")}
    return any(path.name.lower().strip() in names and _counts(path) for path in folder.iterdir())


def _counts(path: Path) -> bool:
    """Whether a table is there, or is meant to be: a link to nothing is no folder without one."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def find_table(root: Path, stem: str) -> Path | None:
    """STEM.csv, or STEM.tsv, in any capitals, in a folder.

    Raises:
        DataError: there are several.
    """
    names = (f"{stem}.csv", f"{stem}.tsv")
    found = sorted(path for path in root.iterdir() if path.name.lower().strip() in names and _counts(path))
    if len(found) > 1:
        raise DataError(
            f"{root}: must hold one table of {stem}, got {', '.join(p.name for p in found)}; remove the others"
        )
    return found[0] if found else None


def read_table(path: Path, known: Collection[str], *, preamble: bool = False) -> Table:
    """Read a table of text, separated by commas, semicolons, tabs or bars, in UTF-8 or UTF-16.

    Blank lines, and lines before the header that begin with a #, are passed over.

    Args:
        path: the file.
        known: columns that it may have, as `Table.columns` has them; others stay.
        preamble: other lines may stand before the header, which is the line with the most known columns.

    Raises:
        DataError: what keeps it from being read, a line each.
    """
    return table_of(path, _read_text(path), known, preamble=preamble)


def table_of(path: Path, text: Text, known: Collection[str], *, preamble: bool = False) -> Table:
    """As `read_table`, of what a file holds or will hold."""
    lines = LINE_END.split(text.content)[::2]
    start, separator, columns = _header_behind(path, lines, known) if preamble else _header(path, lines, known)
    twice = sorted({name for name in columns if name in known and columns.count(name) > 1})
    if twice:
        raise DataError(f"{path}:{start + 1}: must have each column once, has {', '.join(twice)} twice; remove one")
    rows: list[Row] = []
    problems: list[str] = []
    for line, raw in _fields(path, lines, start + 1, separator, problems):
        fields = [field.strip(INVISIBLE) for field in raw]
        if not any(fields):
            continue
        extra = [field for field in fields[len(columns) :] if field]
        may_be_comment = raw[0].lstrip(INVISIBLE).startswith("#")
        if (extra or len(fields) < len(columns)) and not may_be_comment:
            problems.append(
                f"{path}:{line}: must have {len(columns)} fields, as the header has, got {len(fields)}"
                + ('; put what holds a separator into "quotes"' if extra else "")
            )
            continue
        rows.append(Row(line, dict(zip(columns, fields, strict=False)), may_be_comment, len(fields) < len(columns)))
    before = _named(lines[:start], separator) if preamble else {}
    return Table(path, start + 1, columns, rows, separator, text, problems, before)


def edited(table: Table, dropped: Collection[int], added: Mapping[int, Sequence[Mapping[str, str]]]) -> Text:
    """The text of a table with some rows less and some more; all else in it, and how it is written, stays as it was.

    Args:
        dropped: numbers of lines.
        added: the rows that go behind a line, each as its cells by column; those that are not named are empty.
    """
    parts = LINE_END.split(table.text.content)
    lines = list(zip(parts[::2], [*parts[1::2], ""], strict=True))
    usual = lines[0][1] or "\n"
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=table.separator, lineterminator=usual)
    is_whole = True
    for number, (line, end) in enumerate(lines, start=1):
        if number not in dropped:
            out.write(line + end)
            is_whole = bool(end or not line)
        for cells in added.get(number, ()):
            out.write("" if is_whole else usual)
            is_whole = True
            writer.writerow([cells.get(column, "") for column in table.columns])
    return replace(table.text, content=out.getvalue())


def text_of(path: Path) -> str:
    """A file of text in UTF-8 or UTF-16, without its mark.

    Raises:
        DataError: it is something else, or cannot be read.
    """
    return _read_text(path).content


def _read_text(path: Path) -> Text:
    try:
        content = path.read_bytes()
    except OSError as error:
        what = "links to nothing; fetch what it links to, or remove it" if path.is_symlink() else "cannot be read"
        raise DataError(f"{path}: {what} ({error.strerror})") from error
    mark, encoding = next(((mark, name) for mark, name in MARKS if content.startswith(mark)), (b"", "utf-8"))
    content = content.removeprefix(mark)
    if not mark and len(content) > 3 and 0 in (content[0], content[1]):
        encoding = "utf-16-be" if content[0] == 0 else "utf-16-le"
    try:
        text = content.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        got = f"byte 0x{content[error.start]:02x} in line {line}" if error.start < len(content) else "half a character"
        raise DataError(
            f"{path}: must be CSV text in UTF-8 or UTF-16, got {got}; save it anew as `CSV UTF-8`"
        ) from error
    if "\0" in text:
        raise DataError(f"{path}: must be CSV text in UTF-8 or UTF-16, got zero bytes; save it anew as `CSV UTF-8`")
    return Text(text, encoding, mark)


def _named(lines: Sequence[str], separator: str) -> dict[str, str]:
    """The first two fields of each line, of lines with one name the first."""
    fields = [[field.strip(f'{INVISIBLE}"') for field in line.split(separator)] for line in reversed(lines)]
    return {own[0].lower(): own[1] for own in fields if len(own) > 1}


def _header(path: Path, lines: Sequence[str], known: Collection[str]) -> tuple[int, str, list[str]]:
    """Where the header is, what separates its columns, and the columns."""
    first: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(lines):
        text = line.strip(INVISIBLE)
        if not text or re.fullmatch(r'"?sep=.?"?', text, re.IGNORECASE):
            continue
        # Some programs write the header as a comment, or put a comment into quotes.
        best = max((_split(text.lstrip("#"), sign) for sign in SEPARATORS), key=lambda found: _score(found[1], known))
        if not text.startswith(("#", '"#')):
            first = first or (number, *best)
            break
        if _score(best[1], known)[0] > 1:
            return number, *best
    if first is None:
        raise DataError(f"{path}: must have a header with its columns, is empty")
    return first


def _header_behind(path: Path, lines: Sequence[str], known: Collection[str]) -> tuple[int, str, list[str]]:
    """As `_header`, of a table that begins with other lines."""
    found = [
        (number, *max((_split(line, sign) for sign in SEPARATORS), key=lambda found: _score(found[1], known)))
        for number, line in enumerate(lines[:PREAMBLE])
    ]
    if not any(columns for _, _, columns in found):
        raise DataError(f"{path}: must have a header with its columns, is empty")
    return max(found, key=lambda line: (_score(line[2], known)[0], -line[0]))


def _split(line: str, separator: str) -> tuple[str, list[str]]:
    try:
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        fields = line.split(separator)
    return separator, [re.sub(r"[\s-]+", "_", field.strip(INVISIBLE).lower()) for field in fields]


def _score(columns: Sequence[str], known: Collection[str]) -> tuple[int, int]:
    return len(set(columns) & set(known)), len(columns)


def _fields(
    path: Path, lines: Sequence[str], start: int, separator: str, problems: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields of the rows; a quote that is not closed ends them."""
    reader = csv.reader(
        (f"{line}\n" for line in lines[start:]), delimiter=separator, skipinitialspace=True, strict=True
    )
    line = start
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            problems.append(f"{path}:{line + 1}: cannot be read as a table ({error}); look at its quotes")
            return
        begin, line = line + 1, start + reader.line_num
        if fields is None:
            return
        if line > begin:
            problems.append(f"{path}:{begin}: must be one line, ends in line {line}; close the quote")
            return
        yield line, fields or [""]
