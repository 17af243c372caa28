"""Where lacray keeps what it can make again: compiled operators, rendered videos, indices of videos."""

from __future__ import annotations

import functools
import os
import stat
import sys
import tempfile
from pathlib import Path

APP = "lacray"


def cache_dir() -> Path:
    """$LACRAY_CACHE, else $XDG_CACHE_HOME/lacray, else ~/.cache/lacray; a temporary folder for who has no home."""
    if explicit := os.environ.get("LACRAY_CACHE"):
        return _expanded(explicit)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return _expanded(xdg) / APP
    home = home_dir()
    return home / ".cache" / APP if home is not None else temporary_dir()


def cached(name: str) -> Path:
    """The path of something in the cache: where it lies, else where it can be made.

    A cache that can only be read is used for what it holds; what it lacks is made in a temporary folder, said once.

    Args:
        name: relative to the cache, of a file or a folder that appears when it is whole.
    """
    own = cache_dir() / name
    if own.exists() or can_write(own.parent):
        return own
    return _instead_of(cache_dir()) / name


def home_dir() -> Path | None:
    """The user's home, if there is one; containers run as users that have none."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_dir() else None


def can_write(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    while not folder.exists():
        if folder == folder.parent:
            return False
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@functools.cache
def temporary_dir() -> Path:
    """This user's folder among the temporary ones; nobody else can have put anything there.

    Raises:
        OSError: there is no temporary folder that can be written.
    """
    path = Path(tempfile.gettempdir()) / f"{APP}-{os.getuid()}"
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
        if not is_private:
            return Path(tempfile.mkdtemp(prefix=f"{APP}-"))
    return path


@functools.cache
def _instead_of(cache: Path) -> Path:
    found = temporary_dir()
    print(f"lacray: {cache} cannot be written; what it lacks is kept in {found}", file=sys.stderr, flush=True)
    return found


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # `~` of who has no home
        return temporary_dir()
