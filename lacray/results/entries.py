"""What a place says of what lies in it."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """An object in a listing: its key, bytes, time of its last change (seconds since 1970, the place's clock)."""

    key: str
    size: int
    modified: float
    version: str


class Found(NamedTuple):
    """An object's content, what tells this content from any other, and when it was written (the place's clock)."""

    data: bytes
    version: str
    modified: float
