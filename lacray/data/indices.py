"""Indices of videos, kept: in this process, and on disk where making one took long."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
import zipfile
from collections import OrderedDict
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lacray.cache import cached
from lacray.data.arrays import load_arrays
from lacray.data.frames import FrameIndex
from lacray.data.indexing import count, scan

VERSION = 1
"""Of the index on disk; goes up when what is found in a file changes."""

KEPT_FROM = 0.02
"""Seconds; an index that took less is made again about as fast as it is read from disk."""

MEMORY = 256 * 2**20
"""Bytes of indices that a process keeps."""


class _Kept:
    """Indices by (path, bytes, time of the last change), up to MEMORY; least recently used out first."""

    def __init__(self) -> None:
        self._indices: OrderedDict[tuple[str, int, int], FrameIndex] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int]) -> FrameIndex | None:
        with self._lock:
            if key in self._indices:
                self._indices.move_to_end(key)
            return self._indices.get(key)

    def put(self, key: tuple[str, int, int], index: FrameIndex) -> None:
        with self._lock:
            if (old := self._indices.pop(key, None)) is not None:
                self._bytes -= old.nbytes
            self._indices[key] = index
            self._bytes += index.nbytes
            while self._bytes > MEMORY and len(self._indices) > 1:
                self._bytes -= self._indices.popitem(last=False)[1].nbytes


_kept = _Kept()


def frame_index(path: str) -> FrameIndex:
    """Which picture is frame i: the frames of a video in the order in which decoding all of it shows them.

    Read from the video's packets, without decoding it where they suffice, and kept for as long as the file stays as it
    is.

    Raises:
        UnreadableVideoError: no such file, no video, no frames in it, or a file that was cut off or damaged.
    """
    key = _key(path)
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
    key, index = _key(path), count(path)
    _save(key, index)
    _kept.put(key, index)
    return index


def remember(path: str, index: FrameIndex) -> None:
    """Keep in this process what was learned about a video: keys that lead nowhere."""
    key = _key(path)
    if _kept.get(key) is not index:
        _kept.put(key, index)


def _key(path: str) -> tuple[str, int, int]:
    try:
        state = os.stat(path)
    except OSError:
        return path, -1, -1
    return os.path.abspath(path), state.st_size, state.st_mtime_ns


def _file(key: tuple[str, int, int]) -> Path:
    name = hashlib.sha256(os.fsencode(key[0])).hexdigest()[:32]
    return cached(f"frames/{name[:2]}/{name}.npz")


def _state(key: tuple[str, int, int]) -> str:
    """What an index on disk belongs to."""
    return f"{VERSION} {av.__version__} {key[1]} {key[2]}"


def _load(key: tuple[str, int, int]) -> FrameIndex | None:
    try:
        values = load_arrays(_file(key))
        if str(values.pop("state")) != _state(key):
            return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    plain = {name: value if value.ndim else value.item() for name, value in values.items()}
    return FrameIndex(**{**plain, "time_base": Fraction(plain["time_base"])})


def _save(key: tuple[str, int, int], index: FrameIndex) -> None:
    """Keep an index on disk; a cache that cannot be written costs time and nothing else."""
    values = {entry.name: getattr(index, entry.name) for entry in fields(index)}
    try:
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as out:
                np.savez(out, state=_state(key), **{**values, "time_base": str(index.time_base)})
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return
