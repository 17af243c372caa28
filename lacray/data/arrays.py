"""Arrays on disk, as several threads may read them."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lacray.data.videoset import DataError

RECORD = "backbone.json"
"""Beside the features: what made them."""

# numpy reads a header with Python's parser, and CPython 3.11 counts the depth of all threads' parsing as one: two
# headers at once may end in a SystemError.
_PARSING = threading.Lock()


def load_array(path: str | os.PathLike[str], *, mapped: bool = False) -> Any:
    """What a .npy file holds; of an archive, the archive.

    Args:
        mapped: leave it on disk, and read what is looked at.

    Raises:
        OSError, ValueError, EOFError: it is no array.
    """
    with _PARSING:
        try:
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except zipfile.BadZipFile as error:
            raise ValueError(f"an archive that is cut off or damaged: {error}") from error


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in a .npy file, which is left at its first value.

    Raises:
        ValueError, EOFError: it is no such file.
    """
    with _PARSING:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"of version {version}")
        shape, _, dtype = readers[version](file)
        return shape, dtype


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All arrays of a .npz file, by name.

    Raises:
        OSError, ValueError, EOFError, zipfile.BadZipFile: it is no such file.
    """
    with _PARSING, np.load(path, allow_pickle=False) as file:
        return dict(file)


def read_record(folder: Path) -> dict[str, Any] | None:
    """What made the features of a folder; None where nothing says.

    Raises:
        DataError: the record cannot be read.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError(f"a {type(record).__name__}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: is no record of features ({error}); remove it where the features are yours, else their folder"
        ) from error
    return record


def made_by(folder: Path) -> str | None:
    """In a line, what decides which features a folder holds; the precision of their numbers does not.

    Raises:
        DataError: the record cannot be read.
    """
    record = read_record(folder)
    if record is None:
        return None
    told = {key: record.get(key) for key in ("size", "mean", "std")}
    return f"{record.get('backbone')}, weights {record.get('weights_sha256')!s:.12}, {told}"
