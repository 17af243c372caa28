"""Tables as plain text cells that any format can print, and how numbers are written."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from analysis.cells import Row

DASH = "–"
# Of what is said under a table about its rows.
MAX_REMARKS = 8
# Behind the point, of the units that are printed: means that differ less are equal.
EQUAL_DIGITS = 9


@dataclass
class Entry:
    """Text, and the number behind it where it competes for the best of its column."""

    text: str = DASH
    value: float | None = None
    rank: int | None = None
    """1: the best of its column, 2: the second."""
    mean: float | None = None
    deviation: float | None = None
    num: int | None = None
    """Of seeds."""
    p: float | None = None
    """Of a paired test."""
    between: str | None = None
    """Of a paired test, its two sides, where the line does not say them."""


@dataclass
class Line:
    """A row of a table; kind: method, control, published or difference."""

    label: str
    entries: list[Entry]
    kind: str = "method"
    marked: bool = False


@dataclass
class Table:
    """A table with its caption and what must be said under it."""

    key: str
    title: str
    header: list[str]
    lines: list[Line]
    better: list[str | None]
    """Of each column behind the first: `max`, `min`, or None where nothing competes."""
    notes: list[str] = field(default_factory=list)

    def mark(self) -> Table:
        """Marks the best and the second of each column, controls included: where a control wins, it shows."""
        for column, better in enumerate(self.better):
            entries = [line.entries[column] for line in self.lines if line.kind in ("method", "control")]
            # Equal means of other summands differ in the last digits.
            places = [None if entry.value is None else round(entry.value, EQUAL_DIGITS) for entry in entries]
            values = {place for place in places if place is not None}
            if better is None or sum(entry.value is not None for entry in entries) < 2:
                continue
            order = sorted(values, reverse=better == "max")
            for entry, place in zip(entries, places, strict=True):
                if place is not None and place in order[:2]:
                    entry.rank = order.index(place) + 1
                # Of two, the second is the last.
                if entry.rank == 2 and len(order) < 3:
                    entry.rank = None
        return self


def number(value: float, digits: int = 2) -> str:
    """A number with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float) -> str:
    """A difference with its sign."""
    return ("+" if value >= 0 else "") + number(value)


def spread(values: Iterable[float | None], scale: float = 1.0, *, competes: bool = True) -> Entry:
    """Mean ± sample standard deviation of what is there; one value has no deviation, none is a dash."""
    known = [value * scale for value in values if value is not None and math.isfinite(value)]
    if not known:
        return Entry()
    mean = statistics.fmean(known)
    deviation = statistics.stdev(known) if len(known) > 1 else None
    text = number(mean) + ("" if deviation is None else f" ± {number(deviation)}")
    return Entry(text, mean if competes else None, mean=mean, deviation=deviation, num=len(known))


def plain(value: float | None, digits: int = 2) -> Entry:
    """A printed number that competes with none."""
    return Entry() if value is None else Entry(number(value, digits), mean=value)


def difference(value: float | None) -> Entry:
    return Entry() if value is None else Entry(signed(value), mean=value)


def short(value: Any) -> str:
    """A setting in as few digits as tell it."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("-", "−")
    return str(value)


def remarks(rows: Iterable[Row]) -> list[str]:
    """What must be said beside these rows' numbers: what was left out, what they were computed with."""
    said: dict[str, None] = {}
    for row in rows:
        said.update(dict.fromkeys(json.loads(row["notes"]) if row.get("notes") else []))
    told = list(said)
    more = [f"And {len(told) - MAX_REMARKS} more of this kind."] if len(told) > MAX_REMARKS else []
    return [f"{text[:1].upper()}{text[1:].rstrip('.')}." for text in told[:MAX_REMARKS]] + more
