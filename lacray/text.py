"""Text that people wrote: names that a terminal must not obey, paths with a tilde."""

from __future__ import annotations

import os
import re
from pathlib import Path

# What moves a cursor, ends a line, turns the direction of writing, or is no character at all.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Bytes of a file's name that are no UTF-8, as Python keeps them.
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF


def printable(text: str) -> str:
    """The text in one line that says what it is: control characters and undecodable bytes as escapes."""
    return _OBEYED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode("ascii")


def home_expanded(path: str | os.PathLike[str]) -> Path:
    """A path as the user means it: `~` and `~user` at its beginning are homes; of nobody's, it stays as it is."""
    return Path(os.path.expanduser(path))
