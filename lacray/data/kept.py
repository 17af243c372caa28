"""What was found in a file, kept on disk for as long as the file stays as it is."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lacray.cache import cached
from lacray.data.arrays import load_arrays

Key = tuple[str, int, int]
"""Path, bytes, time of the last change."""


def file_key(path: str) -> Key:
    """What stays the same as long as a file does."""
    try:
        state = os.stat(path)
    except OSError:
        return path, -1, -1
    return os.path.abspath(path), state.st_size, state.st_mtime_ns


class KeptArrays:
    """Arrays by name, for each of many files.

    Args:
        folder: in the cache.
        version: of what is found in a file; what another one kept is made again.
    """

    def __init__(self, folder: str, version: str) -> None:
        self.folder, self.version = folder, version

    def load(self, key: Key) -> dict[str, Any] | None:
        """What was kept of a file; None where nothing was, or the file has changed."""
        try:
            values = load_arrays(self._file(key))
            if str(values.pop("state")) != self._state(key):
                return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return values

    def save(self, key: Key, values: Mapping[str, Any]) -> None:
        """Keep arrays of a file; a cache that cannot be written costs time and nothing else."""
        try:
            file = self._file(key)
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as out:
                    np.savez(out, state=self._state(key), **values)
                os.replace(temporary, file)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError:
            return

    def _file(self, key: Key) -> Path:
        name = hashlib.sha256(os.fsencode(key[0])).hexdigest()[:32]
        return cached(f"{self.folder}/{name[:2]}/{name}.npz")

    def _state(self, key: Key) -> str:
        """What belongs to the file as it is."""
        return f"{self.version} {key[1]} {key[2]}"
