"""Files that appear when they are whole."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

LONGEST = 225
"""Bytes of a file's name, of which systems allow 255: beside it may be NAME.TIME.bak."""


def fitting(stem: str, suffix: str) -> str:
    """A file's name; a stem that is too long for one is cut, and told apart from others that are."""
    encoded = os.fsencode(stem)
    room = LONGEST - len(os.fsencode(suffix))
    if len(encoded) <= room:
        return f"{stem}{suffix}"
    sign = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: room - 9].decode(errors='ignore')}-{sign}{suffix}"


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends well; else nothing is left of it.

    What was there before keeps its permissions; folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A sign of a name may take four bytes, and a name has 255 at most.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; whoever reads `path` finds it whole, or the one before it."""
    with whole(path) as file:
        file.write(content)


def write_kept(path: Path, content: bytes, *, but: re.Pattern[bytes] | None = None) -> None:
    """Write a file; what it held before, where that was something else, stays beside it as NAME.TIME.bak.

    Args:
        but: where the two differ in nothing but this (when each was written), nothing is written.
    """
    before = path.read_bytes() if path.exists() else content
    if before != content:
        if but is not None and but.sub(b"", before) == but.sub(b"", content):
            return
        stamp = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
        names = [f"{path.name}.{stamp}.bak", *(f"{path.name}.{stamp}.{number}.bak" for number in range(2, 1000))]
        write_whole(next(path.with_name(name) for name in names if not path.with_name(name).exists()), before)
    write_whole(path, content)


def _umask() -> int:
    # It can only be asked for by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
