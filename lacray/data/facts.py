"""What can be said of a video as it lies on disk, whatever it is: its clock, its facts, whether it is a copy."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lacray.data.containers import UnreadableVideoError

COMPARED_BYTES = 1 << 16
"""Of a file's beginning and end: enough to tell videos apart, little enough for thousands."""


@dataclass(frozen=True)
class Clock:
    """When the frames of a video are shown."""

    times: NDArray[np.float64]
    """(num_frames,) seconds, from where a player begins to count."""
    frame: float
    """How long a frame is shown, in seconds; the median where that varies."""
    end: float
    """When the file ends, in seconds: its last frame, or its sound."""


@dataclass(frozen=True)
class Facts:
    """What a person wants to know of a video before hours are spent on it."""

    seconds: float | None = None
    rate: float | None = None
    """Frames a second, their median where that varies."""
    is_variable: bool = False
    """Whether frames are shown for times that differ by more than rounding."""
    size: tuple[int, int] | None = None
    """Width and height, as players show it; of pictures, those of the first."""
    is_mixed: bool = False
    """Whether pictures of other sizes were seen: the first, the middle and the last are looked at."""
    rotation: int = 0
    """Degrees by which players turn it."""
    kind: str = ""
    """Codec and container; of features, their type and width."""
    missing: float = 0.0
    """Seconds that the file announces and does not hold."""


def check_regular(path: str) -> None:
    """Refuse what would be waited for without end, and what is not there.

    Raises:
        UnreadableVideoError: it is no regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error})"
        raise UnreadableVideoError(reason) from error
    if not stat.S_ISREG(mode):
        raise UnreadableVideoError("is a folder" if stat.S_ISDIR(mode) else "is no regular file")


def ends_digest(path: str) -> bytes:
    """Of a file's beginning and end, the same for its copies.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        begin = file.read(COMPARED_BYTES)
        file.seek(max(os.fstat(file.fileno()).st_size - COMPARED_BYTES, 0))
        return hashlib.sha256(begin + file.read(COMPARED_BYTES)).digest()


def file_state(path: str) -> str:
    """Size and time of the last change of a file.

    Raises:
        UnreadableVideoError: it is not there.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UnreadableVideoError(f"cannot be read any more ({error})") from error
    return f"{status.st_size} {status.st_mtime_ns}"
