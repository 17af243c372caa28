"""Addresses of results as people write them: a path, file:///path, s3://bucket/prefix."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

# A path may hold a colon, a #, a ?: an address is what has a scheme and two slashes, and all behind them belongs to it.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def split_address(uri: str) -> tuple[str, str]:
    """s3://bucket/a #1 -> ('s3', 'bucket/a #1'); a path -> ('', path)."""
    found = _ADDRESS.fullmatch(uri)
    return (found[1].lower(), found[2]) if found else ("", uri)


def is_local(uri: str) -> bool:
    """Whether it is a path or a file:// address."""
    return split_address(uri)[0] in ("", "file")


def local_path(uri: str) -> str:
    """The absolute path of a local path, whose ~ is a home, or of a file:// address, whose %20 is a space."""
    scheme, rest = split_address(uri)
    path = unquote(rest.removeprefix("localhost")) if scheme == "file" else os.path.expanduser(rest)
    return os.path.abspath(path)
