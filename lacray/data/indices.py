"""Indices of videos, kept: in this process, and on disk where making one took long."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import fields
from fractions import Fraction

import av

from lacray.data.frames import FrameIndex
from lacray.data.indexing import count, scan
from lacray.data.kept import KeptArrays, Key, file_key

VERSION = 3
"""Of the index on disk; goes up when what is found in a file changes."""

KEPT_FROM = 0.02
"""Seconds; an index that took less is made again about as fast as it is read from disk."""

MEMORY = 256 * 2**20
"""Bytes of indices that a process keeps."""


class _Kept:
    """Indices by (path, bytes, time of the last change), up to MEMORY; least recently used out first."""

    def __init__(self) -> None:
        self._indices: OrderedDict[Key, FrameIndex] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> FrameIndex | None:
        with self._lock:
            if key in self._indices:
                self._indices.move_to_end(key)
            return self._indices.get(key)

    def put(self, key: Key, index: FrameIndex) -> None:
        with self._lock:
            if (old := self._indices.pop(key, None)) is not None:
                self._bytes -= old.nbytes
            self._indices[key] = index
            self._bytes += index.nbytes
            while self._bytes > MEMORY and len(self._indices) > 1:
                self._bytes -= self._indices.popitem(last=False)[1].nbytes


_kept = _Kept()
_on_disk = KeptArrays("frames", f"{VERSION} {av.__version__}")


def frame_index(path: str) -> FrameIndex:
    """Which picture is frame i: the frames of a video in the order in which decoding all of it shows them.

    Read from the video's packets, without decoding it where they suffice, and kept for as long as the file stays as it
    is.

    Raises:
        UnreadableVideoError: no such file, no video, no frames in it, or a file that was cut off or damaged.
    """
    key = file_key(path)
    if (index := _kept.get(key)) is None:
        if (index := _load(key)) is None:
            start = time.perf_counter()
            index = scan(path)
            if time.perf_counter() - start > KEPT_FROM:
                _save(key, index)
        _kept.put(key, index)
    return index


def counted_index(path: str) -> FrameIndex:
    """The frames of a video whose packets have turned out to be no guide; found by decoding all of it, and kept.

    Raises:
        UnreadableVideoError: as `frame_index`.
    """
    key, index = file_key(path), count(path)
    _save(key, index)
    _kept.put(key, index)
    return index


def remember(path: str, index: FrameIndex) -> None:
    """Keep in this process what was learned about a video: keys that lead nowhere."""
    key = file_key(path)
    if _kept.get(key) is not index:
        _kept.put(key, index)


def _load(key: Key) -> FrameIndex | None:
    values = _on_disk.load(key)
    if values is None:
        return None
    plain = {name: value if value.ndim else value.item() for name, value in values.items()}
    return FrameIndex(**{**plain, "time_base": Fraction(plain["time_base"])})


def _save(key: Key, index: FrameIndex) -> None:
    values = {entry.name: getattr(index, entry.name) for entry in fields(index)}
    _on_disk.save(key, {**values, "time_base": str(index.time_base)})
